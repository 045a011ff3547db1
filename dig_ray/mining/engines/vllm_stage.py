"""What an engine of ray.data.llm does with a batch of mining's rows. Imported where vLLM runs, and by ``engines.vllm`` alone.

Of its base class it uses the engine, and the way one row is asked without an exception that would take its batch along.
"""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from ray.llm._internal.batch.stages.vllm_engine_stage import vLLMEngineStageUDF
from vllm.sampling_params import RequestOutputKind

from dig_ray.mining.answer_log import AnswerLog
from dig_ray.mining.answers import json_schema
from dig_ray.mining.deaths import Marks
from dig_ray.mining.engines.contract import Job, Result, judge_answer, worth_asking
from dig_ray.mining.engines.meter import Meter
from dig_ray.mining.engines.vllm_start import EngineStartError, free_memory, heard, memory_on_cpu, root_cause

if TYPE_CHECKING:
    from dig_ray.mining.engines.vllm import VllmConfig

HOPELESS = 2
"""Rows that an engine may die at, each asked alone, while it has never answered any."""
AGAIN_S = 10.0
"""Seconds between two starts of an engine whose forerunner died."""


class Gate:
    """Many may pass together, or one alone. Used from one event loop."""

    def __init__(self) -> None:
        self._inside = 0
        self._changed = asyncio.Condition()

    @asynccontextmanager
    async def together(self) -> AsyncIterator[None]:
        async with self._changed:
            await self._changed.wait_for(lambda: self._inside >= 0)
            self._inside += 1
        try:
            yield
        finally:
            async with self._changed:
                self._inside -= 1
                self._changed.notify_all()

    @asynccontextmanager
    async def alone(self) -> AsyncIterator[None]:
        async with self._changed:
            await self._changed.wait_for(lambda: self._inside == 0)
            self._inside = -1
        try:
            yield
        finally:
            async with self._changed:
                self._inside = 0
                self._changed.notify_all()


class AskingEngine(vLLMEngineStageUDF):
    """Asks rows, writes answers down, asks again for a bad one, and sets aside what kills the engine."""

    def __init__(self, *args: Any, job: Job, on_gpu: bool, **kwargs: Any) -> None:
        self.miner: VllmConfig = job.miner
        if not on_gpu:
            kwargs["engine_kwargs"] = memory_on_cpu(self.miner, free_memory()) | kwargs["engine_kwargs"]
        self.marks = Marks(job.marks)
        try:
            self._start(*args, **kwargs)
        except EngineStartError:
            if not any(self.marks.left()):
                raise
            time.sleep(AGAIN_S)  # one that died a moment ago may still hold its memory
            self._start(*args, **kwargs)
        self.kind, self.most, self.system = job.kind, job.most, job.system
        self.log = AnswerLog(job.log)
        self.journal = self.log.writer()
        self.meter = Meter(job.board, self.miner.name, job.stage)
        self.gate = Gate()
        if self.kind == "judgement":
            self.structured: dict[str, Any] = {"choice": ["0", "1"]}
        else:
            self.structured = {"json": json.dumps(json_schema(self.kind, self.most))}

    def _start(self, *args: Any, **kwargs: Any) -> None:
        with heard() as tail:
            try:
                super().__init__(*args, **kwargs)
            except Exception as error:
                raise EngineStartError(root_cause(tail(), error)) from None

    async def udf(self, batch: list[dict[str, Any]]) -> AsyncIterator[dict[str, Any]]:  # type: ignore[override,misc]
        """Rows with ``key``, and ``prompt`` and what else the stages before have made; out comes each one's status."""
        keys = {row["key"] for row in batch}
        in_flight, died_alone = self.marks.left()
        if len(died_alone) >= HOPELESS and "ok" not in self.log.read()["status"].to_pylist():
            said = (
                f"miner {self.miner.name}: its engine died at {len(died_alone)} rows asked alone and answered none; look for the cause in "
                "the worker's log, or try the model with vLLM itself"
            )
            for row in batch:  # as data: Ray would wrap an exception until nobody finds its sentence
                yield self._outcome(row, "failed", said)
            return
        in_flight, died_alone = in_flight & keys, died_alone & keys
        answered: dict[str, str] = {}
        if in_flight or died_alone:  # an engine died at this batch
            answered = {
                row["key"]: row["status"]
                for row in self.log.read().to_pylist()
                if row["key"] in keys and not worth_asking(row)
            }
        suspects: list[dict[str, Any]] = []
        plain: list[dict[str, Any]] = []
        for row in batch:
            key = row["key"]
            if key in answered:
                yield self._outcome(row, answered[key])
            elif key in died_alone:
                reason = "killed_engine: the engine died twice at this row, the second time with nothing else asked"
                yield self._outcome(row, self._keep(Result(key, reason=reason, calls=2)))
            else:
                (suspects if key in in_flight else plain).append(row)
        if plain:
            async with self.gate.together():
                mark = self.marks.begin(row["key"] for row in plain)
                for asked in asyncio.as_completed([asyncio.create_task(self._ask(row)) for row in plain]):
                    row, result = await asked
                    yield self._outcome(row, self._keep(result))
                self.journal.flush()
                self.marks.end(mark)
        for row in suspects:
            async with self.gate.alone():
                mark = self.marks.begin([row["key"]], alone=True)
                row, result = await self._ask(row)
                status = self._keep(result)
                self.journal.flush()
                self.marks.end(mark)
            yield self._outcome(row, status)
        self.meter.flush()

    async def _ask(self, row: dict[str, Any]) -> tuple[dict[str, Any], Result]:
        """At most two answers."""
        begun = time.monotonic()
        result = Result(row["key"])
        sampling = self.miner.sampling
        for attempt in range(2):
            params = sampling.attempt(attempt) | {
                "structured_outputs": dict(self.structured),
                "output_kind": RequestOutputKind.FINAL_ONLY,  # else every token is an event for Python
            }
            output = await self._generate_with_error_handling(
                {**row, "sampling_params": params}, uuid.uuid4()
            )
            result.calls += 1
            if output["__inference_error__"]:
                result.reason = f"engine: {output['__inference_error__']}"
                break
            result.raw = output["generated_text"]
            result.tokens_in += output["num_input_tokens"]
            result.tokens_out += output["num_generated_tokens"]
            answer, result.reason = judge_answer(self.kind, result.raw, self.most, self.system)
            if answer is not None:
                result.status = "ok"
                break
            if output["num_generated_tokens"] >= sampling.max_tokens:
                result.reason = f"cut_off: the answer ends at max_tokens={sampling.max_tokens}"
        result.cost = self.miner.price.of(result.tokens_in, result.tokens_out)
        result.seconds = time.monotonic() - begun
        return row, result

    def _keep(self, result: Result) -> str:
        self.journal.append(result.row())
        self.meter.add(result)
        return result.status

    def _outcome(self, row: dict[str, Any], status: str, stopped: str = "") -> dict[str, Any]:
        return {
            self.IDX_IN_BATCH_COLUMN: row[self.IDX_IN_BATCH_COLUMN],
            "status": status,
            "stopped": stopped,
            "__inference_error__": "",
            "prompt": "",
            "multimodal_data": None,
        }
