"""Trials on Ray Tune: searchers, schedulers, names, resume, and lines a person can read meanwhile."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import optuna
from ray import tune
from ray.tune.schedulers import ASHAScheduler
from ray.tune.search import Searcher
from ray.tune.search.optuna import OptunaSearch

from dig_ray.experiments.sweeps.config import AshaConfig, SweepConfig
from dig_ray.experiments.sweeps.run_trial import run_trial
from dig_ray.experiments.sweeps.space import TRIES, Draws, Point
from dig_ray.experiments.sweeps.trials import Trials, name_of
from dig_ray.on_ray.telemetry import put

LINE_SECONDS = 8.0
NOW_SECONDS = 1.0
ENDED = ("TERMINATED", "ERROR")


class PossibleOptuna(OptunaSearch):
    """Optuna that draws again where a point makes no possible run, and tells the study that it failed.

    Args:
        draws: says what is possible, and counts.
        settings: the keyword arguments of ``OptunaSearch``.
    """

    def __init__(self, draws: Draws, **settings: Any) -> None:
        super().__init__(**settings)
        self.draws = draws

    def suggest(self, trial_id: str) -> Any:
        """The next possible point; the end of the search after many that are not."""
        for _ in range(TRIES):
            point: Any = super().suggest(trial_id)
            if self.draws.possible(point):
                return point
            study: Any = self._ot_study
            study.tell(self._ot_trials.pop(trial_id), state=optuna.trial.TrialState.FAIL)
        return Searcher.FINISHED


class Halving(ASHAScheduler):  # type: ignore[misc]
    """ASHA that lets a trial which has come to its end publish what it made."""

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        if result.get(self._time_attr, 0) >= self._max_t:
            return str(self.CONTINUE)
        return str(super().on_trial_result(tune_controller, trial, result))


class Lines(tune.Callback):
    """A line when a trial ends, and how it stands: done, running, failed, the best so far, the time left.

    On a terminal that line is written over, elsewhere there is one now and then.
    """

    say: ClassVar[Callable[[str], None]] = (
        print  # of this process: a resumed search unpickles what an earlier one left
    )
    now: ClassVar[Callable[[str], None] | None] = None  # writes a line over, where that can be done

    def __init__(self, total: int, metric: str, mode: str) -> None:
        self.total, self.metric, self.mode = total, metric, mode
        self.begun = self.said = 0.0
        self.before: int | None = None  # trials that an earlier try has ended
        self.ended: set[str] = set()  # Tune changes a trial's status after it has told us

    def on_step_begin(self, iteration: int, trials: list[Any], **_: Any) -> None:
        if self.before is None:
            self.begun = self.said = time.monotonic()
            self.before = sum(trial.status in ENDED for trial in trials)

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        self.ended.add(trial.trial_id)
        value = trial.last_result.get(self.metric)
        at = "" if "complete" in trial.last_result else " (stopped early)"
        shown = "nothing reported" if value is None else f"{self.metric} {value:.4f}"
        Lines.say(f"sweep: {trial.custom_trial_name}{at}: {shown}; {self._standing(trials)}")
        self.said = time.monotonic()

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        self.ended.add(trial.trial_id)
        Lines.say(f"sweep: {trial.custom_trial_name} failed; {self._standing(trials, trial.trial_id)}")

    def on_step_end(self, iteration: int, trials: list[Any], **_: Any) -> None:
        if time.monotonic() - self.said > (LINE_SECONDS if Lines.now is None else NOW_SECONDS):
            self.said = time.monotonic()
            (Lines.now or Lines.say)(f"sweep: {self._standing(trials)}")

    def _standing(self, trials: list[Any], failing: str = "") -> str:
        """How it stands, in words, and to the dashboard."""
        over = [trial for trial in trials if trial.status in ENDED or trial.trial_id in self.ended]
        failed = sum(trial.status == "ERROR" or trial.trial_id == failing for trial in over)
        running = sum(trial.status == "RUNNING" for trial in trials if trial not in over)
        states = {
            "done": len(over) - failed,
            "running": running,
            "failed": failed,
            "waiting": self.total - len(over) - running,
        }
        for state, number in states.items():
            put("dig_sweep_trials", number, state=state)
        text = f"{len(over) - failed} of {self.total} trials done, {running} running, {failed} failed"
        whole = [trial for trial in over if {"complete", self.metric} <= set(trial.last_result)]
        if whole:
            sign = 1 if self.mode == "max" else -1
            best = max(whole, key=lambda trial: sign * trial.last_result[self.metric])
            put("dig_sweep_best", best.last_result[self.metric], objective=self.metric)
            text += f", best {self.metric} {best.last_result[self.metric]:.4f} ({best.custom_trial_name})"
        still, now = self.total - len(over), len(over) - (self.before or 0)
        if now > 0 and still > 0:
            left = (time.monotonic() - self.begun) / now * still
            text += f", about {left / 60:.0f} min left" if left > 90 else f", about {left:.0f} s left"
        return text


def search(
    name: str,
    sweep: SweepConfig,
    trials: Trials,
    storage: str,
    log: Callable[[str], None],
    draws: Draws,
    points: Sequence[Point] | None,
    directions: Mapping[str, str],
    count: int,
    asha: AshaConfig | None = None,
    first: Sequence[Point] = (),
    now: Callable[[str], None] | None = None,
) -> Any:
    """Run trials to their ends, or go on with those of an earlier try in the same storage.

    Args:
        name: the name of the experiment in ``storage``.
        sweep: its settings.
        trials: what runs a point.
        storage: local folder or URI that survives a kill.
        log: prints one line.
        draws: the space.
        points: what is tried; None lets Optuna choose.
        directions: figure -> ``max`` or ``min``; the first decides.
        count: trials at most.
        asha: stops trials early.
        first: what Optuna tries before what it chooses.
        now: shows one line in place of the last, on a terminal.

    Returns:
        Tune's ``ResultGrid``.
    """
    from ray.tune.search import BasicVariantGenerator

    os.environ["RAY_CHDIR_TO_TRIAL_DIR"] = "0"  # configs name files from where the user stands
    os.environ["TUNE_DISABLE_STRICT_METRIC_CHECKING"] = (
        "1"  # epochs of a quantizer have fewer figures than its end
    )
    os.environ["RAY_AIR_NEW_OUTPUT"] = "0"  # the newer output prints its banner at any verbosity
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    # they print a trace of each trial that failed
    for logger in ("ray.tune.tune", "ray.tune.execution.tune_controller"):
        logging.getLogger(logger).setLevel(logging.CRITICAL)
    metric, mode = next(iter(directions.items()))
    together = sweep.max_concurrent or trials.judged.room(trials.config({}))
    threads = max(1, (os.cpu_count() or 1) // together)
    where = f"{storage}/{name}"
    function = tune.with_parameters(
        run_trial, trials=trials, threads=threads, notes=f"{storage}/{name}-notes"
    )
    trainable = tune.with_resources(function, {"CPU": 0.001})  # Tune takes no 0
    scheduler: Any = None
    if asha is not None:
        scheduler = Halving(
            time_attr=trials.judged.time,
            metric=metric,
            mode=mode,
            grace_period=asha.grace,
            max_t=asha.most or trials.longest,
            reduction_factor=asha.reduction,
        )
    searcher: Any
    if points is None:
        figures = list(directions)
        searcher = PossibleOptuna(
            draws,
            space=OptunaSearch.convert_search_space({k: one.domain() for k, one in draws.space.items()}),
            metric=figures if len(figures) > 1 else metric,
            mode=[directions[f] for f in figures] if len(figures) > 1 else mode,
            seed=sweep.seed,
            points_to_evaluate=[dict(point) for point in first] or None,
        )
        space: dict[str, Any] = {}
    else:
        searcher = BasicVariantGenerator(
            points_to_evaluate=[dict(point) for point in points], max_concurrent=together
        )
        keys = {key: None for point in points for key in point}  # also what a point has beside the space
        space = {
            key: draws.space[key].domain() if key in draws.space else tune.choice([p[key] for p in points])
            for key in keys
        }
    run_config = tune.RunConfig(
        name=name,
        storage_path=storage,
        failure_config=tune.FailureConfig(max_failures=sweep.retries),
        callbacks=[Lines(count, metric, mode)],
        verbose=0,
    )
    told_otherwise = scheduler is not None or points is None  # the scheduler or Optuna knows it already
    Lines.say = staticmethod(log)  # type: ignore[assignment]
    Lines.now = None if now is None else staticmethod(now)  # type: ignore[assignment]
    if tune.Tuner.can_restore(where):
        log("sweep: going on with the trials of an earlier try")
        tuner = tune.Tuner.restore(where, trainable, restart_errored=True, param_space=space or None)
    else:
        tuner = tune.Tuner(
            trainable,
            param_space=space,
            tune_config=tune.TuneConfig(
                num_samples=count,
                reuse_actors=trials.judged.alone,
                search_alg=searcher,
                scheduler=scheduler,
                max_concurrent_trials=together if points is None else None,
                trial_name_creator=lambda trial: f"{trials.target}-{name_of(trial.config)}",
                trial_dirname_creator=lambda trial: f"{name_of(trial.config)}-{trial.trial_id}",
                metric=None if told_otherwise else metric,
                mode=None if told_otherwise else mode,
            ),
            run_config=run_config,
        )
    log(f"sweep: {count} trials, {together} at once, on {threads} thread{'s' if threads > 1 else ''} each")
    return tuner.fit()
