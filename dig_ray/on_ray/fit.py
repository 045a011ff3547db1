"""What a room needs of Ray Train in the driver: a run that resumes, lines that come through, and sentences for what went wrong.

A run is named after its stage's fingerprint and stored in the stage's work directory, so the same command after a kill finds its latest
checkpoint and goes on to the same result.
"""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

from dig_ray.artifacts.folders import explain_behind, remove_file
from dig_ray.base import Stretch
from dig_ray.errors import UserError
from dig_ray.on_ray.said import GOES_ON, Said
from dig_ray.on_ray.session import beside_the_driver
from dig_ray.on_ray.workers import WorkersConfig

CALLS = 5
"""Times that a run is begun whose directing process could not be reached."""
ABORT_S = 20.0
"""Seconds that a run which is interrupted has to end its workers."""


def fit(
    worker: Callable[[dict[str, Any]], None],
    job: Any,
    config: WorkersConfig,
    threads: int,
    storage: str,
    name: str,
    log: Callable[[str], None],
    stretch: Stretch | None = None,
) -> Any:
    """Run a job on Ray Train; resumes when ``storage/name`` holds a checkpoint.

    Args:
        worker: ``train_loop_per_worker``; gets ``job`` (a reference), ``lines`` (a queue), ``failed`` (a folder or URI) and ``stretch``.
        job: plain data that every worker gets a reference to.
        config: how many workers run, on what, and how often they may fail.
        threads: threads that torch uses in a worker.
        storage: a local folder or a URI, in which the run has a folder of its name.
        name: the run's name, its stage and part of a fingerprint, such as ``sft-0123456789abcdef``.
        log: prints one line.
        stretch: the part of the run that is trained; the whole by default.

    Raises:
        UserError: a worker left a sentence and stopped, or workers failed more often than is allowed.
        KeyboardInterrupt: the driver was interrupted; its workers are gone by then.
    """
    import ray
    import ray.train
    from ray.util.queue import Queue

    from dig_ray.on_ray.run_folder import mend
    from dig_ray.on_ray.worker_failures import BEGAN, FAILURES, STOPPED, SayFailures, read_sentence

    stage = name.rpartition("-")[0].replace("-", "_")
    if not ray.is_initialized():
        ray.init(address="local", num_cpus=max(4, 2 * config.num_workers + 2), include_dashboard=False)
    storage = _absolute(storage)
    if "://" not in storage:
        Path(storage).mkdir(parents=True, exist_ok=True)
    failed = f"{storage}/{name}/failed"
    for left in (STOPPED, FAILURES, BEGAN):  # of an earlier try
        remove_file(failed, left)
    mend(f"{storage}/{name}", stage, log)
    if not any(config.nodes.items() <= node["Labels"].items() for node in ray.nodes() if node["Alive"]):
        log(f"no node of the cluster has the labels {config.nodes} yet; waiting for one")
    lines = Queue(actor_options={"num_cpus": 0, "scheduling_strategy": beside_the_driver()})
    given = {"job": ray.put(job), "lines": lines, "failed": failed, "stretch": stretch or Stretch()}
    watching = SayFailures(stage, f"{storage}/{name}", failed, lines)
    with _forwarded(lines, Said(log, stage, f"starting {config.num_workers} worker(s)")):
        for more in reversed(range(CALLS)):
            try:
                result = _trainer(worker, given, config, threads, storage, name, watching).fit()
                break
            except ray.exceptions.ActorUnavailableError:  # the one call that Ray does not repeat
                if not more:
                    raise
                log("the call to what directs the training was lost; going on from its last checkpoint")
            except ray.train.TrainingFailedError as error:
                raise _ended(stage, storage, failed, config, error) from error
    said = read_sentence(failed)
    if said is not None:
        raise UserError(said)
    return result


def _trainer(
    worker: Callable[[dict[str, Any]], None],
    given: dict[str, Any],
    config: WorkersConfig,
    threads: int,
    storage: str,
    name: str,
    watching: Any,
) -> Any:
    """Ray's trainer of the run: which workers, where it is stored, which checkpoints are kept, and who is told."""
    import ray
    import ray.train

    from dig_ray.on_ray.loopback import LoopbackTorchConfig

    free = ray.cluster_resources().get("CPU", 1)
    cpus = config.cpus_per_worker or max(0.5, min(threads, (free - 1) // config.num_workers))
    return _interruptible()(
        worker,
        train_loop_config=given,
        scaling_config=ray.train.ScalingConfig(  # type: ignore[call-arg]
            num_workers=config.num_workers,
            use_gpu=config.use_gpu,
            resources_per_worker={"CPU": cpus, **({"GPU": 1} if config.use_gpu else {})},
            label_selector=config.nodes or None,
        ),
        run_config=ray.train.RunConfig(
            name=name,
            storage_path=storage,
            failure_config=ray.train.FailureConfig(max_failures=config.max_failures),
            checkpoint_config=ray.train.CheckpointConfig(
                num_to_keep=1, checkpoint_score_attribute="eval_ndcg@10", checkpoint_score_order="max"
            ),
            callbacks=[watching, *_to_tune()],
        ),
        torch_config=LoopbackTorchConfig(
            backend="nccl" if config.use_gpu else "gloo", timeout_s=config.hang_seconds
        ),
    )


def _ended(stage: str, storage: str, failed: str, config: WorkersConfig, error: BaseException) -> UserError:
    """Why Ray Train gave up."""
    from dig_ray.on_ray.worker_failures import failure_of, read_sentence

    said = explain_behind(error, storage) or read_sentence(failed)
    if said is not None:
        return UserError(said)
    failures = getattr(error, "worker_failures", None)
    if not isinstance(failures, dict) or not failures:
        reason = failure_of({0: getattr(error, "controller_failure", None) or error}).reason
        return UserError(f"{stage}: Ray Train cannot go on: {reason}; {GOES_ON}")
    return UserError(
        f"{stage}: workers failed {config.max_failures + 1} times, and {stage}.max_failures={config.max_failures} allows no more; the "
        f"last time: {failure_of(failures).reason}; {GOES_ON}"
    )


def _interruptible() -> Any:
    """Ray's TorchTrainer, but an interrupt ends the workers and reaches the caller as what it is.

    Ray's own handler of SIGINT ends the whole process with exit code 0 in the middle of ``fit``.
    """
    from ray.train.torch import TorchTrainer

    class Interruptible(TorchTrainer):
        _controller: Any = None

        def _register_sigint_handler(self, controller: Any) -> None:
            self._controller = controller

        def fit(self) -> Any:
            try:
                return super().fit()
            except (KeyboardInterrupt, SystemExit):
                _abort(self._controller)
                raise

    return Interruptible


def _abort(controller: Any) -> None:
    """End a run's workers, as well as that goes."""
    import ray

    if controller is None:
        return
    try:
        ray.get(controller.abort.remote(), timeout=ABORT_S)
    except Exception:  # it ends with its process, which is an error to whoever called
        return


def _absolute(storage: str) -> str:
    return storage if "://" in storage else str(Path(storage).resolve())


def _to_tune() -> list[Any]:
    """What hands every validation on to Ray Tune, inside a trial of it."""
    functions = sys.modules.get(
        "ray.tune.trainable.trainable_fn_utils"
    )  # loaded in every trial, and dear to import
    if functions is None or not functions._in_tune_session():
        return []
    from ray.tune.integration.ray_train import TuneReportCallback

    return [TuneReportCallback()]


@contextmanager
def _forwarded(lines: Any, said: Said) -> Iterator[None]:
    """Print the lines of the leading worker and tell the dashboard its figures, while they come; workers' own output is not shown."""
    from ray.exceptions import ActorUnavailableError
    from ray.util.queue import Empty

    from dig_ray.on_ray.training_figures import tell

    done = threading.Event()

    def take(one: Any) -> None:
        if not isinstance(one, dict):
            said.line(one)
        elif "now" in one:
            said.begin(one["now"])
        else:
            tell(one)

    def drain() -> None:
        while True:
            try:
                take(lines.get(timeout=1.0))
                said.tick()
            except (Empty, ActorUnavailableError):  # nothing said, or the call was lost
                if done.is_set():
                    return
                said.tick()
            except Exception:  # the queue's actor went down with Ray: there is nothing left to print
                return

    thread = threading.Thread(target=drain, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join(timeout=10)
        lines.shutdown()


def best_checkpoint(result: Any) -> tuple[Any, list[dict[str, Any]]]:
    """The checkpoint with the best validation (the earliest of equals) and the whole log of the last one."""
    ranked = sorted(
        result.best_checkpoints, key=lambda pair: (-pair[1]["eval_ndcg@10"], pair[1].get("epoch", 0.0))
    )
    with result.checkpoint.as_directory() as directory:
        state = json.loads((Path(directory) / "checkpoint" / "trainer_state.json").read_text())
    return ranked[0][0], state["log_history"]


def last_checkpoint(result: Any, storage: str, name: str) -> tuple[str, list[dict[str, Any]]]:
    """Where the latest checkpoint of a run in ``storage/name`` is, a local folder or a URI, and its log."""
    with result.checkpoint.as_directory() as directory:
        state = json.loads((Path(directory) / "checkpoint" / "trainer_state.json").read_text())
    return f"{_absolute(storage)}/{name}/{PurePosixPath(result.checkpoint.path).name}", state["log_history"]
