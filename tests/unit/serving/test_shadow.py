"""Shadow and stickiness in one worker: what is compared, counted and captured, what is dropped, who stays where."""

from __future__ import annotations

import asyncio
import json
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mlplatform.data.capture import read_block
from mlplatform.domain.bundle import Manifest
from mlplatform.domain.routes import CaptureRule, Route, Routes
from mlplatform.serving.calls import Call
from mlplatform.serving.capture import shadow
from mlplatform.serving.capture.shadow import Mirrored
from mlplatform.serving.dataplane import Answer, DataPlane
from mlplatform.testing.bundles import make_log_bundle, make_onnx_bundle

Bundle = tuple[Path, Manifest]
ROW = {"columns": ["a", "b", "c"], "data": [[0.1, -0.2, 0.3]]}


@pytest.fixture(scope="module")
def again(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """Other weights than `numeric`: it disagrees on some rows."""
    folder = tmp_path_factory.mktemp("bundles") / "again"
    return folder, make_onnx_bundle(folder, seed=7)


def route(bundle: Bundle, version: int, share: float = 1.0, arm: str = "live", key: str = "") -> Route:
    return Route("m", version, bundle[1].digest, str(bundle[0]), share, arm, key)


def publish(folder: Path, *routes: Route, standby: tuple[Route, ...] = (), generation: int = 1) -> None:
    rule = CaptureRule(context=("customer",))
    document = Routes("e", generation, routes, standby, rule)
    (folder / "routes.json").write_bytes(document.encode())


def call(row: Any = ROW, **headers: str) -> Call:
    made = Call(json.dumps({"dataframe_split": row}).encode(), b"application/json")
    made.headers = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    return made


async def answered(plane: DataPlane, request: Call) -> Answer:
    found = plane.predict("mlflow", request)
    answer = found if isinstance(found, Answer) else await found
    plane.record(answer)
    return answer


async def until(plane: DataPlane, rows: int) -> Counter[str]:
    """What came of the shadow's rows, once there are so many."""
    for _ in range(2000):
        outcomes = Counter({outcome: n for (_, _, outcome), n in plane.metrics.shadows.items()})
        if outcomes.total() >= rows:
            return outcomes
        await asyncio.sleep(0.005)
    raise AssertionError(f"{plane.metrics.shadows}")


def blocks(folder: Path) -> Iterator[dict[str, Any]]:
    yield from map(read_block, sorted((folder / "capture").glob("*.npz")))


def test_a_shadow_answers_the_same_rows_and_nobody_gets_its_answers(
    tmp_path: Path, numeric: Bundle, again: Bundle
) -> None:
    async def run() -> tuple[list[Answer], Counter[str], dict[str, int]]:
        plane = DataPlane(tmp_path)
        publish(tmp_path, route(numeric, 1), standby=(route(again, 2, 0.0, "shadow"),))
        await plane.router.look()
        rows = [{"columns": ["a", "b", "c"], "data": [[i / 10 - 5, 0.5, -i / 20]]} for i in range(100)]
        answers = [await answered(plane, call(row)) for row in rows]
        outcomes = await until(plane, 100)
        await plane.close()
        return answers, outcomes, plane.metrics.counts()

    answers, outcomes, counts = asyncio.run(run())
    assert {a.arm.name for a in answers if a.arm} == {"m@1"}
    assert counts == {"m@1": 100, "m@2": 0} or counts == {"m@1": 100}
    found = {
        arm: ids for block in blocks(tmp_path) for arm, ids in [(str(block["arm"][0]), block["request"])]
    }
    assert sorted(found["shadow"].tolist()) == sorted(found["live"].tolist())
    live, own = (
        {
            r: p
            for b in blocks(tmp_path)
            if b["arm"][0] == arm
            for r, p in zip(b["request"], b["prediction"], strict=True)
        }
        for arm in ("live", "shadow")
    )
    agreeing = sum(live[request] == own[request] for request in live)
    assert outcomes == {"agree": agreeing, "disagree": 100 - agreeing}
    assert 0 < agreeing < 100


def test_a_shadow_that_cannot_answer_is_counted_and_harms_nobody(tmp_path: Path, numeric: Bundle) -> None:
    """It wants a column that nobody sends."""
    folder = tmp_path / "log"
    strange = (folder, make_log_bundle(folder))

    async def run() -> tuple[Answer, Counter[str], dict[int, int]]:
        plane = DataPlane(tmp_path)
        publish(tmp_path, route(numeric, 1), standby=(route(strange, 2, 0.0, "shadow"),))
        await plane.router.look()
        answer = await answered(plane, call())
        outcomes = await until(plane, 1)
        series = plane.metrics.series("m", "2", "shadow", "mlflow")
        await plane.close()
        return answer, outcomes, series.statuses

    answer, outcomes, statuses = asyncio.run(run())
    assert (answer.status, outcomes) == (200, {"failed": 1})
    assert set(statuses) == {400}


def test_under_load_requests_are_skipped_and_counted(
    tmp_path: Path, numeric: Bundle, again: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A shadow that hangs keeps nobody waiting, and nothing grows."""
    go_on = threading.Event()
    asked = shadow.ask

    def hanging(request: Mirrored) -> Any:
        go_on.wait(30)
        return asked(request)

    monkeypatch.setattr(shadow, "ask", hanging)

    async def run() -> Counter[str]:
        plane = DataPlane(tmp_path)
        publish(tmp_path, route(numeric, 1), standby=(route(again, 2, 0.0, "shadow"),))
        await plane.router.look()
        answers = [await answered(plane, call()) for _ in range(400)]
        assert {a.status for a in answers} == {200}
        skipped = Counter({outcome: n for (_, _, outcome), n in plane.metrics.shadows.items()})
        assert skipped == {"skipped": 400 - shadow.MOST_REQUESTS}
        go_on.set()
        outcomes = await until(plane, 400)
        await plane.close()
        return outcomes

    assert asyncio.run(run())["skipped"] == 400 - shadow.MOST_REQUESTS


def test_requests_that_set_parameters_are_not_compared_with_a_shadows_defaults(
    tmp_path: Path, numeric: Bundle, again: Bundle
) -> None:
    async def run() -> Counter[str]:
        plane = DataPlane(tmp_path)
        publish(tmp_path, route(numeric, 1), standby=(route(again, 2, 0.0, "shadow"),))
        await plane.router.look()
        answer = await answered(plane, call())
        assert answer.rows is not None
        answer.rows = answer.rows.beside((("k", 1),))
        plane.record(answer)
        outcomes = await until(plane, 2)
        await plane.close()
        return outcomes

    outcomes = asyncio.run(run())
    assert outcomes["skipped"] == 1 and outcomes.total() == 2


def test_a_shadow_that_was_taken_back_is_asked_no_more(
    tmp_path: Path, numeric: Bundle, again: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_on, asked, count = threading.Event(), shadow.ask, Counter[str]()

    def slow(request: Mirrored) -> Any:
        count["asked"] += 1
        go_on.wait(30)
        return asked(request)

    monkeypatch.setattr(shadow, "ask", slow)

    async def run() -> Counter[str]:
        plane = DataPlane(tmp_path)
        publish(tmp_path, route(numeric, 1), standby=(route(again, 2, 0.0, "shadow"),))
        await plane.router.look()
        for _ in range(50):
            await answered(plane, call())
        publish(tmp_path, route(numeric, 1), generation=2)
        await plane.router.look()
        go_on.set()
        outcomes = await until(plane, 50)
        await plane.close()
        return outcomes

    outcomes = asyncio.run(run())
    assert count["asked"] == 1
    assert outcomes["skipped"] == 49


# --- stickiness -------------------------------------------------------------------------------------------------------


def of_keys(folder: Path, bundles: tuple[Bundle, Bundle], key: str, share: float, ask: Any) -> dict[str, str]:
    """Which version each of 150 keys meets."""
    live, canary = bundles

    async def run() -> dict[str, str]:
        plane = DataPlane(folder)
        publish(folder, route(canary, 2, share, "canary", key), route(live, 1, 1 - share, "live", key))
        await plane.router.look()
        met = {}
        for number in range(150):
            names = {
                answer.arm.name
                for answer in [await answered(plane, ask(number)) for _ in range(2)]
                if answer.arm
            }
            assert len(names) == 1, "one key, two versions"
            met[str(number)] = names.pop()
        await plane.close()
        return met

    return asyncio.run(run())


def by_column(number: int) -> Call:
    return call({"columns": ["a", "b", "c", "customer"], "data": [[0.1, 0.2, 0.3, number]]})


def by_feature(number: int) -> Call:
    return call({"columns": ["a", "b", "c"], "data": [[number, 0.2, 0.3]]})


def by_header(number: int) -> Call:
    return call(x_customer=str(number))


@pytest.mark.parametrize(
    ("key", "ask"), [("customer", by_column), ("a", by_feature), ("header:X-Customer", by_header)]
)
def test_a_key_moves_to_the_newcomer_at_most_once_while_its_share_grows(
    tmp_path: Path, numeric: Bundle, again: Bundle, key: str, ask: Any
) -> None:
    met = [of_keys(tmp_path, (numeric, again), key, share, ask) for share in (0.05, 0.3, 0.8)]
    for share, now in zip((0.05, 0.3, 0.8), met, strict=True):
        assert abs(sum(name == "m@2" for name in now.values()) / 150 - share) < 0.13
    for number in met[0]:
        path = [now[number] for now in met]
        assert path == sorted(path), f"{number} came back: {path}"


def test_without_its_key_a_request_goes_by_its_own_id(tmp_path: Path, numeric: Bundle, again: Bundle) -> None:
    async def run() -> set[str]:
        plane = DataPlane(tmp_path)
        key = "header:x-customer"
        publish(tmp_path, route(again, 2, 0.5, "canary", key), route(numeric, 1, 0.5, "live", key))
        await plane.router.look()
        met = {answer.arm.name for answer in [await answered(plane, call()) for _ in range(64)] if answer.arm}
        await plane.close()
        return met

    assert asyncio.run(run()) == {"m@1", "m@2"}


def test_a_request_that_cannot_be_read_is_told_so_also_where_a_column_decides(
    tmp_path: Path, numeric: Bundle, again: Bundle
) -> None:
    async def run() -> Answer:
        plane = DataPlane(tmp_path)
        publish(tmp_path, route(again, 2, 0.5, "canary", "a"), route(numeric, 1, 0.5, "live", "a"))
        await plane.router.look()
        answer = await answered(plane, call({"columns": ["a", "b"], "data": [[1.0, 2.0]]}))
        await plane.close()
        return answer

    answer = asyncio.run(run())
    assert answer.status == 400
    assert b"missing column 'c'" in answer.payload
