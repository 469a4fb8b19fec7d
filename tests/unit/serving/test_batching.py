"""Requests that share a run of the model: the same answers as alone, nobody's rows harm another, and only where it
pays."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from mlplatform.domain.bundle import Manifest
from mlplatform.serving.calls import Call
from mlplatform.serving.dataplane import Answer, DataPlane, Later
from mlplatform.serving.decode import Rows
from mlplatform.serving.models import batching
from mlplatform.serving.models.batching import Queue, Turn, answer_all, answers_alike, pays_from
from mlplatform.serving.problems import TooBusy
from mlplatform.stats.batch import Batch, Outputs

Bundle = tuple[Path, Manifest]


def rows(*values: float) -> Rows:
    return Rows(Batch(("x",), np.array(values).reshape(-1, 1)))


def columns(**arrays: Any) -> Rows:
    return Rows(Batch(tuple(arrays), arrays={name: np.array(values) for name, values in arrays.items()}))


class Model:
    """Doubles; fails on a negative number. Keeps how many rows each run had."""

    def __init__(self) -> None:
        self.runs: list[int] = []

    def __call__(self, asked: Rows) -> Outputs:
        self.runs.append(asked.batch.rows)
        values = np.concatenate([v.reshape(-1, 1) for v in asked.batch.columns().values()], axis=1)
        if (values < 0).any():
            raise ValueError("a negative number")
        return Outputs(values[:, 0] * 2, values)


def nothing(rows: int, seconds: float) -> None:
    pass


def said(result: Outputs | Exception) -> Any:
    return result.predictions.tolist() if isinstance(result, Outputs) else str(result)


# ---- joining


def test_requests_are_answered_by_one_run_and_each_gets_its_own_rows() -> None:
    model = Model()
    results = answer_all(model, [rows(1), rows(2, 3), rows(4)])
    assert [said(result) for result in results] == [[2], [4, 6], [8]]
    assert model.runs == [4]


def test_a_request_that_makes_the_model_fail_fails_alone() -> None:
    results = answer_all(Model(), [rows(1), rows(-2), rows(3)])
    assert [said(result) for result in results] == [[2], "a negative number", [6]]


def test_an_answer_without_an_entry_for_each_row_is_asked_for_again_one_by_one() -> None:
    def first_only(asked: Rows) -> Outputs:
        return Outputs(np.ones(asked.batch.rows), np.ones((1, 2)))

    assert [said(result) for result in answer_all(first_only, [rows(1), rows(2)])] == [[1], [1]]


def test_a_model_that_looks_across_rows_is_found_out() -> None:
    def centred(asked: Rows) -> Outputs:
        assert asked.batch.matrix is not None
        return Outputs(asked.batch.matrix[:, 0] - asked.batch.matrix.mean())

    assert answers_alike(Model(), [rows(1), rows(2)])
    assert not answers_alike(centred, [rows(1), rows(2)])


# ---- on the loop


def in_one_turn(turn: Turn, *requests: Rows) -> list[Any]:
    """What requests get that arrive in one turn of the loop."""

    async def ask() -> list[Any]:
        got: list[Any] = [None] * len(requests)
        for i, asked in enumerate(requests):
            turn.put(asked, lambda result, began, ended, i=i: got.__setitem__(i, said(result)))
        await asyncio.sleep(0)
        return got

    return asyncio.run(ask())


def test_only_requests_of_one_layout_share_a_run() -> None:
    model = Model()
    turn = Turn(model, nothing, 100.0, 1.0)
    whole, gap = columns(x=[1]), columns(x=[1.5])
    assert in_one_turn(turn, whole, whole, gap, gap, whole) == [[2], [2], [3.0], [3.0], [2]]
    assert model.runs == [2, 2, 1]


def test_requests_that_set_parameters_never_share_a_run() -> None:
    model, asked = Model(), list[Any]()

    def seen(given: Rows) -> Outputs:
        asked.append((given.batch.params, given.batch.rows))
        return model(given)

    turn = Turn(seen, nothing, 100.0, 1.0)
    one, two = (("k", 1),), (("k", 2),)
    for make in (lambda: rows(1.0), lambda: columns(x=[1.0])):
        asked.clear()
        plain, first, second = make(), make().beside(one), make().beside(two)
        got = in_one_turn(turn, plain, plain, first, first, second, plain, second)
        assert got == [[2.0]] * 7
        assert asked == [((), 2), (one, 1), (one, 1), (two, 1), ((), 1), (two, 1)]


def test_a_run_takes_no_more_rows_than_it_has_time_for() -> None:
    model = Model()
    in_one_turn(Turn(model, nothing, 0.0, batching.LONGEST_RUN_US / 4), *[rows(1, 2)] * 5)
    assert model.runs == [4, 4, 2]


@pytest.mark.parametrize(("base_us", "least"), [(1.0, None), (3.0, 30), (6.0, 6), (60.0, 2)])
def test_the_shorter_a_run_the_more_requests_it_takes_to_pay(base_us: float, least: int | None) -> None:
    found = pays_from(base_us)
    assert found == float("inf") if least is None else least - 1 < found <= least


def test_who_is_alone_does_not_wait_but_for_a_look_now_and_then() -> None:
    turn, waited = Turn(Model(), nothing, 60.0, 1.0), 0
    for _ in range(10 * batching.PROBE_EVERY):
        if turn.joins():
            waited += 1
            in_one_turn(turn, rows(1))
    assert waited == 10


def test_requests_wait_for_each_other_while_turns_bring_several() -> None:
    turn = Turn(Model(), nothing, 60.0, 1.0)
    in_one_turn(turn, *[rows(1)] * 16)
    assert turn.joins()
    for _ in range(12):
        in_one_turn(turn, rows(1))
    assert not turn.joins()


# ---- off the loop


class Held(Model):
    """Answers when it is let go."""

    def __init__(self) -> None:
        super().__init__()
        self.go, self.busy = threading.Event(), threading.Semaphore(0)

    def __call__(self, asked: Rows) -> Outputs:
        self.busy.release()
        assert self.go.wait(20)
        return super().__call__(asked)


def off_the_loop(
    use: Callable[[Queue, ThreadPoolExecutor, list[Any]], int], model: Held, together: bool, most_waiting: int
) -> list[Any]:
    """What `use`, which puts so many requests into a queue, makes of the list of answers."""

    async def ask() -> list[Any]:
        queue, got = Queue(model, nothing, 1000.0, 1.0, together, most_waiting), list[Any]()
        with ThreadPoolExecutor(4) as pool:
            wanted = use(queue, pool, got)
            model.go.set()
            while len(got) < wanted:
                await asyncio.sleep(0.001)
        return got

    return asyncio.run(asyncio.wait_for(ask(), 20))


def fill(queue: Queue, pool: ThreadPoolExecutor, got: list[Any], requests: Sequence[Rows]) -> None:
    for asked in requests:
        queue.put(pool, asked, lambda result, began, ended: got.append(said(result)))


@pytest.mark.parametrize("together", [True, False])
def test_what_came_while_the_model_was_busy_is_the_next_run(together: bool) -> None:
    model = Held()

    def use(queue: Queue, pool: ThreadPoolExecutor, got: list[Any]) -> int:
        fill(queue, pool, got, [rows(n) for n in range(10)])
        return 10

    assert sorted(off_the_loop(use, model, together, 256)) == [[2 * n] for n in range(10)]
    assert sorted(model.runs) == ([1, 1, 8] if together else [1] * 10)


def test_one_request_too_many_is_told_when_to_come_again_and_the_others_are_answered() -> None:
    model = Held()

    def use(queue: Queue, pool: ThreadPoolExecutor, got: list[Any]) -> int:
        fill(queue, pool, got, [rows(1)] * (batching.THREADS + 5))
        with pytest.raises(TooBusy, match="5 requests wait") as refused:
            fill(queue, pool, got, [rows(1)])
        assert (refused.value.status, refused.value.facts["retry_after"]) == (429, 1)
        return batching.THREADS + 5

    assert off_the_loop(use, model, True, 5) == [[2]] * (batching.THREADS + 5)


# ---- through the data plane, with real models


def ask_together(folder: Path, calls: Sequence[Call]) -> tuple[list[Answer], list[Answer], int]:
    """What calls are answered one by one, and in one turn; and how many runs the second time took."""

    async def ask() -> tuple[list[Answer], list[Answer], int]:
        plane = DataPlane(folder)
        await plane.router.look()
        (arm,) = plane.router.table.arms
        turn, arm.turn = arm.turn, None
        alone = [answer for call in calls if isinstance(answer := plane.predict("mlflow", call), Answer)]
        assert len(alone) == len(calls), "what stays on the loop and waits for nobody is answered at once"
        assert turn is not None
        arm.turn, turn._together = turn, True
        arm.calls.seconds.fold()
        before = sum(arm.calls.seconds.fold()[0])
        waiting = [plane.predict("mlflow", call) for call in calls]
        assert any(isinstance(answer, Later) for answer in waiting)
        together = [await now(answer) for answer in waiting]
        runs = sum(arm.calls.seconds.fold()[0]) - before
        for answer in together:
            plane.record(answer)
        await plane.close()
        assert plane.metrics.captured_rows == sum(a.rows.batch.rows for a in together if a.rows)
        return alone, together, runs

    return asyncio.run(ask())


async def now(answer: Answer | Later) -> Answer:
    return answer if isinstance(answer, Answer) else await answer


def split(values: Sequence[Sequence[float]], names: str = "abc") -> Call:
    body = {"dataframe_split": {"columns": list(names), "data": values}}
    return Call(msgspec.json.encode(body), b"application/json")


def test_a_turn_of_requests_gets_what_each_gets_alone(
    tmp_path: Path, numeric: Bundle, publish: Callable[..., None]
) -> None:
    publish(numeric)
    rng = np.random.default_rng(0)
    calls = [split(rng.normal(size=(1 + i % 3, 3)).tolist()) for i in range(40)]
    alone, together, runs = ask_together(tmp_path, calls)
    assert runs == 1
    assert [answer.payload for answer in together] == [answer.payload for answer in alone]
    for ours, theirs in zip(together, alone, strict=True):
        assert ours.outputs is not None and theirs.outputs is not None
        assert ours.outputs.scores is not None
        np.testing.assert_allclose(ours.outputs.scores, theirs.outputs.scores, atol=1e-6)  # but for rounding
        assert ours.request_id != theirs.request_id
        assert all(part >= 0 for part in ours.timing)


def test_a_wrong_request_and_one_the_model_cannot_answer_harm_nobody_in_their_turn(
    tmp_path: Path, log: Bundle, publish: Callable[..., None]
) -> None:
    publish(log)
    calls = [split([[value]], "x") for value in (1.0, -1.0, 2.0)] + [
        split([["text"]], "x"),
        split([[3.0]], "x"),
    ]
    alone, together, _ = ask_together(tmp_path, calls)
    assert [answer.status for answer in together] == [200, 500, 200, 400, 200]
    assert [answer.payload for answer in together] == [answer.payload for answer in alone]
