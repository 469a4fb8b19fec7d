"""The data plane of one worker: requests for predictions in, answers out, whatever transport brought them.

Every request is given an id and a version, is counted with its protocol and, once its answer is out,
captured. What goes wrong is an answer too, in the words of the protocol.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Generator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from mlplatform.serving import logs
from mlplatform.serving.calls import Call
from mlplatform.serving.capture.labels import Inbox
from mlplatform.serving.capture.recorder import Recorder
from mlplatform.serving.capture.shadow import Mirrored, Shadow
from mlplatform.serving.decode import Rows
from mlplatform.serving.ids import uuid7
from mlplatform.serving.metrics import Metrics
from mlplatform.serving.models.batching import Result
from mlplatform.serving.models.predictor import Arm, Table
from mlplatform.serving.models.routes import Router
from mlplatform.serving.models.sticky import key_of
from mlplatform.serving.problems import ModelFailed, NotLoaded, Problem, Unavailable
from mlplatform.serving.protocols.table import PROTOCOLS
from mlplatform.stats.batch import Outputs

LARGE_BODY_BYTES = 256_000
"""A body above this is decoded in a thread, so that others are answered meanwhile."""
WAKINGS = 3
"""How often a request has a model loaded that others have put to sleep again."""
MODEL_THREADS = 8
"""For models that leave the loop; each may take a few of them (`batching.THREADS`)."""


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
    problem: Problem | None = None
    """Without a traceback: its frames would hold the request's body and this answer until a garbage collection."""
    failure: Mapping[str, str] | None = None
    """What the log is to tell of a problem of ours."""
    given_up = False
    """Whether the client was told that it is too late."""
    latency_us = 0
    arrived = decoded = began = answered = 0.0
    """Seconds of `perf_counter`, like `started` and `ended`: when the transport had it, when its rows were there, and
    when the model began and ended; 0 where it did not come to that."""

    def __init__(self, request_id: str, protocol: str, started: float) -> None:
        self.request_id = request_id
        self.protocol = protocol
        self.started = self.ended = started

    @property
    def timing(self) -> tuple[int, int, int, int]:
        """Microseconds in the queue, of decoding, in the model, and of encoding."""
        decoded = self.decoded or self.ended
        began = self.began or decoded
        answered = self.answered or began
        queue_s = (self.started - self.arrived if self.arrived else 0.0) + began - decoded
        parts_s = (queue_s, decoded - self.started, answered - began, self.ended - answered)
        queue, decode, predict, encode = (int(seconds * 1e6) for seconds in parts_s)
        return queue, decode, predict, encode


class Later:
    """An answer on its way. To await it costs a future; `then` does not."""

    __slots__ = ("_tell", "_there", "answer")

    def __init__(self, answer: Answer) -> None:
        self.answer = answer
        self._there = False
        self._tell: Callable[[Answer], object] | None = None

    def then(self, tell: Callable[[Answer], object]) -> None:
        """Call `tell`, once, on the loop, when the answer is there."""
        if self._there:
            tell(self.answer)
        else:
            self._tell = tell

    def settle(self) -> None:
        """The answer is complete."""
        self._there = True
        if self._tell is not None:
            self._tell(self.answer)

    def __await__(self) -> Generator[Any, None, Answer]:
        if not self._there:
            future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()

            def there(answer: Answer) -> None:
                if not future.done():
                    future.set_result(answer)

            self.then(there)
            return (yield from future)
        return self.answer


class DataPlane:
    """Belongs to an event loop; models that take long and large bodies go to threads."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.metrics = Metrics()
        self.recorder = Recorder(folder / "capture", self.metrics)
        self.shadow = Shadow(self.metrics, self.recorder.record)
        self.router = Router(folder, self.metrics, on_swap=self._swapped)
        self._inbox = Inbox(folder / "inbox")
        self._unrouted = {name: self.metrics.series(protocol=name) for name in PROTOCOLS}
        self._pool = ThreadPoolExecutor(2, thread_name_prefix="work")
        self._models = ThreadPoolExecutor(MODEL_THREADS, thread_name_prefix="model")
        self._woken: set[asyncio.Task[None]] = set()

    def predict(self, protocol: str, call: Call) -> Answer | Later:
        """Never raises. The answer at once, unless it waits for a thread or for others of its turn. The caller sends
        it, then hands it to `record`."""
        answer = Answer(uuid7(), protocol, time.perf_counter())
        answer.arrived = call.arrived
        try:
            return self._answer(answer, call)
        except NotLoaded as asleep:
            return self._wake(answer, call, asleep.model)
        except Exception as error:
            return self._refused(answer, error)

    def refuse(self, protocol: str, error: Exception) -> Answer:
        """The answer to a request that the transport could not bring in."""
        return self._refused(Answer(uuid7(), protocol, time.perf_counter()), error)

    def give_up(self, later: Later, problem: Problem) -> Answer:
        """The answer to a request whose deadline is over. It counts against the version that was asked; what that may
        answer yet counts no more."""
        late, given_up = (
            later.answer,
            Answer(later.answer.request_id, later.answer.protocol, later.answer.started),
        )
        given_up.arrived, given_up.arm = late.arrived, late.arm
        late.given_up = True
        self._refused(given_up, problem)
        # All that it waited, also for the model itself, was in vain.
        given_up.decoded, given_up.began, given_up.answered = late.decoded, given_up.ended, given_up.ended
        return given_up

    def record(self, answer: Answer) -> None:
        """Capture an answered request, if the sample says so, and let its shadow answer it too. Never raises."""
        arm, rows, outputs = answer.arm, answer.rows, answer.outputs
        if arm is None or rows is None or outputs is None:
            return
        if arm.shadow is not None:
            self.shadow.offer(Mirrored(arm, arm.shadow, answer.protocol, answer.request_id, rows, outputs))
        try:
            self.recorder.record(arm, answer.request_id, rows, outputs, answer.latency_us)
        except Exception as error:  # the answer is out: what cannot be captured is counted
            self.metrics.drop("error", rows.batch.rows)
            logs.limited(
                "capture-failed", "capture: a request could not be copied", "error", logs.failure(error)
            )

    async def keep_labels(self, body: bytes) -> int:
        """Put labels into the inbox; how many. Raises Problem."""
        count: int = await self.away(self._inbox.put, body)
        self.metrics.labels += count
        return count

    def health(self) -> dict[str, Any]:
        """What is served, and why a newer document is not."""
        router = self.router
        table = router.table
        arms = table.arms
        return {
            "status": "ok" if table.models else "no model",
            "generation": router.table.generation,
            "models": [{"model": arm.name, "arm": arm.route.arm, "share": arm.route.share} for arm in arms],
            "rejected": router.rejected,
            "error": router.error,
            "asleep": sorted(table.asleep),
            "failures": router.failures,
        }

    async def away(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Run in a thread."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, function, *arguments)

    async def close(self) -> None:
        """Called when no request is in flight: captures reach the disk."""
        self.router.close()
        self.shadow.close()
        await self.away(self.recorder.close)
        self._pool.shutdown()
        self._models.shutdown()

    def _swapped(self, table: Table) -> None:
        self.recorder.flush()
        self.shadow.retain(table.arms)

    # --- one request: choose, decode, ask, encode -----------------------------------------------------------

    def _answer(self, answer: Answer, call: Call, later: Later | None = None) -> Answer | Later:
        """Raises Problem; NotLoaded where a model has to be woken first."""
        key = partial(key_of, protocol=answer.protocol, call=call)
        arm = answer.arm = self.router.table.pick(answer.request_id, call.model, call.version, key)
        if arm is None:
            raise Unavailable("; ".join(self.router.failures.values()) or "no model is in service yet")
        arm.used_at = answer.started
        if call.decoded is not None and call.decoded[0] is arm:
            return self._ask(answer, arm, call.decoded[1], call.decoded[2], later)
        if len(call.body) > LARGE_BODY_BYTES:
            return self._decode_away(answer, arm, call, later)
        rows, wanted = arm.codecs[answer.protocol].decode(call)
        return self._ask(answer, arm, rows, wanted, later)

    def _wake(self, answer: Answer, call: Call, model: str) -> Later:
        later = Later(answer)
        task = asyncio.create_task(self._when_awake(later, call, model))
        self._woken.add(task)
        task.add_done_callback(self._woken.discard)
        return later

    async def _when_awake(self, later: Later, call: Call, model: str) -> None:
        answer: Answer | Later
        try:
            answer = await self._answer_awake(later, call, model)
        except Exception as error:
            answer = self._refused(later.answer, error)
        if answer is later.answer:
            later.settle()

    async def _answer_awake(self, later: Later, call: Call, model: str) -> Answer | Later:
        for _ in range(WAKINGS):
            await self.router.wake(model)
            try:
                return self._answer(later.answer, call, later)
            except NotLoaded:  # put to sleep again, for others, before it was our turn
                continue
        raise Unavailable(
            f"{model} does not stay loaded: memory_mb is too little for what is asked at a time"
        )

    def _decode_away(self, answer: Answer, arm: Arm, call: Call, later: Later | None = None) -> Later:
        later = later or Later(answer)
        decode = arm.codecs[answer.protocol].decode
        future = asyncio.get_running_loop().run_in_executor(self._pool, decode, call)
        future.add_done_callback(partial(self._decoded, later, arm))
        return later

    def _decoded(self, later: Later, arm: Arm, future: asyncio.Future[tuple[Rows, Any]]) -> None:
        try:
            rows, wanted = future.result()
            answer = self._ask(later.answer, arm, rows, wanted, later)
        except Exception as error:
            answer = self._refused(later.answer, error)
        if answer is later.answer:
            later.settle()

    def _ask(
        self, answer: Answer, arm: Arm, rows: Rows, wanted: Any, later: Later | None = None
    ) -> Answer | Later:
        """Raises TooBusy; whatever else goes wrong is in the answer."""
        began = answer.decoded = time.perf_counter()
        count = rows.batch.rows
        if arm.leaves_loop(count):
            later = later or Later(answer)
            arm.queue.put(self._models, rows, partial(self._came, later, arm, rows, wanted))
            return later
        if arm.turn is not None and arm.turn.joins():
            later = later or Later(answer)
            arm.turn.put(rows, partial(self._came, later, arm, rows, wanted))
            return later
        outputs = arm.answer(rows)
        ended = time.perf_counter()
        arm.calls.count(count, ended - began)
        return self._end(answer, arm, rows, wanted, outputs, began, ended)

    def _came(
        self, later: Later, arm: Arm, rows: Rows, wanted: Any, result: Result, began: float, ended: float
    ) -> None:
        """Never raises: others of the same run come after this one."""
        try:
            if isinstance(result, Exception):
                self._refused(later.answer, result)
            else:
                self._end(later.answer, arm, rows, wanted, result, began, ended)
            later.settle()
        except Exception as error:
            logs.limited("answer-failed", "an answer could not be given", "error", logs.failure(error))

    def _end(
        self, answer: Answer, arm: Arm, rows: Rows, wanted: Any, outputs: Outputs, began: float, ended: float
    ) -> Answer:
        answer.began, answer.answered = began, ended
        protocol = answer.protocol
        try:
            answer.payload, answer.json_length = arm.codecs[protocol].encode(
                wanted, outputs, answer.request_id
            )
        except Exception as error:
            return self._refused(answer, error)
        answer.rows, answer.outputs = rows, outputs
        answer.ended = now = time.perf_counter()
        seconds = now - (answer.arrived or answer.started)
        answer.latency_us = int(seconds * 1e6)
        if not answer.given_up:
            arm.series[protocol].count(200, seconds)
        return answer

    def _refused(self, answer: Answer, error: Exception) -> Answer:
        problem = answer.problem = as_problem(error)
        if problem.status >= 500:
            answer.failure = logs.failure(problem)
        problem.__traceback__ = problem.__context__ = problem.__cause__ = None
        answer.status, answer.payload = problem.status, PROTOCOLS[answer.protocol].error(problem)
        answer.ended = now = time.perf_counter()
        seconds = now - (answer.arrived or answer.started)
        answer.latency_us = int(seconds * 1e6)
        series = self._unrouted if answer.arm is None else answer.arm.series
        if not answer.given_up:
            series[answer.protocol].count(answer.status, seconds)
        return answer


def as_problem(error: Exception) -> Problem:
    """What the client is told; its cause is for the log."""
    if isinstance(error, Problem):
        return error
    problem = ModelFailed(f"the server failed on this request: {type(error).__name__}")
    problem.__cause__ = error
    return problem
