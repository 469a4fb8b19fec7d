"""The data plane of one worker: requests for predictions in, answers out, whatever transport brought them.

Every request is given an id and a version, is counted with its protocol and, once its answer is out,
captured. What goes wrong is an answer too, in the words of the protocol.
"""

from __future__ import annotations

import asyncio
import time
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from mlplatform.serving.calls import Call
from mlplatform.serving.decode import Rows
from mlplatform.serving.ids import uuid7
from mlplatform.serving.labels import Inbox
from mlplatform.serving.metrics import Metrics
from mlplatform.serving.predictor import Arm, Table
from mlplatform.serving.problems import ModelFailed, Problem, Unavailable
from mlplatform.serving.protocols.table import PROTOCOLS
from mlplatform.serving.recorder import Recorder
from mlplatform.serving.routes import Router
from mlplatform.stats.batch import Outputs

LARGE_BODY_BYTES = 256_000
"""A body above this is decoded in a thread, so that others are answered meanwhile."""


class Answer:
    """What a request for predictions gets; `arm`, where a version was chosen."""

    status = 200
    """As in HTTP; a transport with codes of its own translates."""
    payload = b""
    json_length = 0
    """How many bytes of the payload are JSON, where others follow; else 0."""
    arm: Arm | None = None
    rows: Rows | None = None
    outputs: Outputs | None = None
    latency_us = 0

    def __init__(self, request_id: str) -> None:
        self.request_id = request_id


class DataPlane:
    """Belongs to an event loop; models that take long and large bodies go to threads."""

    def __init__(self, folder: Path) -> None:
        self.metrics = Metrics()
        self.recorder = Recorder(folder / "capture", self.metrics)
        self.router = Router(folder, self.metrics, on_swap=self._swapped)
        self._inbox = Inbox(folder / "inbox")
        self._unrouted = {name: self.metrics.series(protocol=name) for name in PROTOCOLS}
        self._pool = ThreadPoolExecutor(2, thread_name_prefix="work")

    async def predict(self, protocol: str, call: Call) -> Answer:
        """Never raises. The caller sends the answer, then hands it to `record`."""
        start = time.perf_counter()
        answer = Answer(uuid7())
        series = self._unrouted[protocol]
        try:
            answer.arm = arm = self.router.table.pick(answer.request_id, call.model, call.version)
            if arm is None:
                raise Unavailable("no model is in service yet")
            series = arm.series[protocol]
            codec = arm.codecs[protocol]
            if len(call.body) > LARGE_BODY_BYTES:
                rows, wanted = await self.away(codec.decode, call)
            else:
                rows, wanted = codec.decode(call)
            away = arm.leaves_loop(rows.batch.rows)
            outputs = await self.away(arm.answer, rows) if away else arm.answer(rows)
            answer.payload, answer.json_length = codec.encode(wanted, outputs, answer.request_id)
            answer.rows, answer.outputs = rows, outputs
        except Exception as error:
            _tell(answer, protocol, as_problem(error))
        seconds = time.perf_counter() - start
        answer.latency_us = int(seconds * 1e6)
        series.count(answer.status, seconds)
        return answer

    def refuse(self, protocol: str, error: Exception) -> Answer:
        """The answer to a request that the transport could not bring in."""
        answer = Answer(uuid7())
        _tell(answer, protocol, as_problem(error))
        self._unrouted[protocol].count(answer.status, 0.0)
        return answer

    def record(self, answer: Answer) -> None:
        """Capture an answered request, if the sample says so. Never raises."""
        arm, rows, outputs = answer.arm, answer.rows, answer.outputs
        if arm is None or rows is None or outputs is None:
            return
        try:
            self.recorder.record(arm, answer.request_id, rows, outputs, answer.latency_us)
        except Exception as error:  # the answer is out: what cannot be captured is counted
            self.metrics.drop("error", rows.batch.rows)
            traceback.print_exception(error)

    async def keep_labels(self, body: bytes) -> int:
        """Put labels into the inbox; how many. Raises Problem."""
        count: int = await self.away(self._inbox.put, body)
        self.metrics.labels += count
        return count

    def health(self) -> dict[str, Any]:
        """What is served, and why a newer document is not."""
        router = self.router
        arms = router.table.arms
        return {
            "status": "ok" if arms else "no model",
            "generation": router.table.generation,
            "models": [{"model": arm.name, "arm": arm.route.arm, "share": arm.route.share} for arm in arms],
            "rejected": router.rejected,
            "error": router.error,
        }

    async def away(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Run in a thread."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, function, *arguments)

    async def close(self) -> None:
        """Called when no request is in flight: captures reach the disk."""
        self.router.close()
        await self.away(self.recorder.close)
        self._pool.shutdown()

    def _swapped(self, table: Table) -> None:
        self.recorder.configure(table.rule)


def as_problem(error: Exception) -> Problem:
    """What the client is told; our own mistakes and the model's are also written to the log."""
    if not isinstance(error, Problem):
        traceback.print_exception(error)
        return ModelFailed(f"the server failed on this request: {type(error).__name__}")
    if isinstance(error, ModelFailed):
        print(f"error: {error}" + (f": {error.__cause__}" if error.__cause__ else ""), flush=True)
    return error


def _tell(answer: Answer, protocol: str, problem: Problem) -> None:
    answer.status, answer.payload = problem.status, PROTOCOLS[protocol].error(problem)
