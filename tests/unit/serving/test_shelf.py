"""Several models in one worker: asleep until they are asked for, put to sleep for others, each failing by itself."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest

from mlplatform.domain.bundle import Manifest
from mlplatform.domain.limits import RequestLimits
from mlplatform.domain.routes import Route, Routes
from mlplatform.serving.calls import Call
from mlplatform.serving.dataplane import Answer, DataPlane
from mlplatform.serving.inflight import SHARED_BY, InFlight
from mlplatform.serving.problems import TooBusy, Unavailable
from mlplatform.testing.bundles import layer_answer, make_layer_bundle

Bundle = tuple[Path, Manifest]
ROW = [0.3, -1.0, 2.0]


@pytest.fixture(scope="session")
def layers(tmp_path_factory: pytest.TempPathFactory) -> list[Bundle]:
    root = tmp_path_factory.mktemp("layers")
    return [(root / str(n), make_layer_bundle(root / str(n), n)) for n in range(4)]


@pytest.fixture
def plane(tmp_path: Path) -> Iterator[DataPlane]:
    made = DataPlane(tmp_path / "endpoint")
    yield made
    asyncio.run(made.close())


Publish = Callable[..., None]


@pytest.fixture
def publish(tmp_path: Path) -> Publish:
    def write(generation: int, *routes: Route, standby: tuple[Route, ...] = (), memory_mb: int = 0) -> None:
        folder = tmp_path / "endpoint"
        folder.mkdir(exist_ok=True)
        document = Routes("endpoint", generation, routes, standby, memory_mb=memory_mb)
        (folder / "new").write_bytes(document.encode())
        (folder / "new").rename(folder / "routes.json")

    return write


def route(model: str, bundle: Bundle, version: int = 1, **more: Any) -> Route:
    return Route(model, version, bundle[1].digest, str(bundle[0]), **more)


async def ask(plane: DataPlane, model: str = "") -> Answer:
    call = Call(b'{"inputs": [[0.3, -1.0, 2.0]]}', b"application/json")
    call.model = model
    found = plane.predict("mlflow", call)
    return found if isinstance(found, Answer) else await found


def run(work: Coroutine[Any, Any, None]) -> None:
    asyncio.run(work)


def test_several_models_sleep_until_they_are_asked_for(
    plane: DataPlane, publish: Publish, layers: list[Bundle]
) -> None:
    publish(1, *(route(name, layers[n]) for n, name in enumerate("abc")))

    async def work() -> None:
        await plane.router.look()
        assert (plane.router.table.asleep, plane.router.status().generation) == (set("abc"), 1)
        answers = await asyncio.gather(*(ask(plane, "b") for _ in range(20)))
        assert {(a.status, a.payload) for a in answers} == {(200, answers[0].payload)}
        assert json.loads(answers[0].payload)["predictions"] == [
            pytest.approx(layer_answer(1, ROW), rel=1e-4)
        ]
        assert plane.router.table.asleep == {"a", "c"}
        assert plane.metrics.model_loads == 1

    run(work())


def test_the_one_that_waits_longest_makes_room(
    plane: DataPlane, publish: Publish, layers: list[Bundle]
) -> None:
    publish(1, *(route(name, layers[n]) for n, name in enumerate("abc")), memory_mb=1)

    async def work() -> None:
        await plane.router.look()
        for name in "abca":
            assert (await ask(plane, name)).status == 200
            assert plane.router.table.models - plane.router.table.asleep == {name}
        assert plane.metrics.model_evictions == 3

    run(work())


def test_what_changes_is_loaded_before_it_is_in_effect(
    plane: DataPlane, publish: Publish, layers: list[Bundle]
) -> None:
    publish(1, route("a", layers[0]), route("b", layers[1]))

    async def work() -> None:
        await plane.router.look()
        publish(
            2, route("a", layers[0]), route("b", layers[2], 2), standby=(route("b", layers[1], share=0.0),)
        )
        await plane.router.look()
        assert plane.router.table.asleep == {"a"}
        assert plane.router.table.bundles.keys() == {layers[1][1].digest, layers[2][1].digest}

    run(work())


def test_a_newer_document_does_not_wait_for_an_older_one(
    plane: DataPlane, publish: Publish, layers: list[Bundle], tmp_path: Path
) -> None:
    publish(1, route("a", layers[0]))
    large = tmp_path / "large", make_layer_bundle(tmp_path / "large", 9, width=2_000_000)
    back: list[int] = []

    async def work() -> None:
        await plane.router.look()
        publish(2, route("a", large, 2))
        loading = asyncio.create_task(plane.router.look())
        while plane.router.status().taken != 2:
            await asyncio.sleep(0)
        assert plane.router.status().behind == {"a": ""}
        publish(3, route("a", layers[0]))
        await plane.router.look()
        back.append(plane.router.status().generation)
        await loading
        assert plane.router.table.arms[0].route.version == 1
        assert plane.router.status().rejected is None

    run(work())
    assert back == [3]


def test_a_standby_that_does_not_load_keeps_the_live_one_from_nothing_when_a_worker_starts(
    plane: DataPlane, publish: Publish, layers: list[Bundle]
) -> None:
    gone = route("a", (Path("/nowhere"), layers[1][1]), 1, share=0.0)
    publish(1, route("a", layers[0], 2), standby=(gone,))

    async def work() -> None:
        await plane.router.look()
        assert (await ask(plane)).status == 200
        publish(2, route("a", layers[0], 2), standby=(gone, route("a", layers[2], 3, share=0.0)))
        await plane.router.look()
        assert "manifest.json is missing" in plane.router.status().error
        assert plane.router.status().serves("a") == 1

    run(work())


@pytest.mark.parametrize("arm", ["canary", "shadow"])
def test_a_version_that_is_rolled_out_and_does_not_load_leaves_all_to_the_live_one_when_a_worker_starts(
    plane: DataPlane, publish: Publish, layers: list[Bundle], arm: str
) -> None:
    share = 0.5 if arm == "canary" else 0.0
    gone = route("a", (Path("/nowhere"), layers[1][1]), 3, share=share, arm=arm)
    live = route("a", layers[0], 2, share=1 - share)
    if arm == "canary":
        publish(1, gone, live)
    else:
        publish(1, live, standby=(gone,))

    async def work() -> None:
        await plane.router.look()
        for _ in range(20):
            assert (await ask(plane)).status == 200

    run(work())


def test_where_nothing_loads_a_request_is_told_why(
    plane: DataPlane, publish: Publish, layers: list[Bundle], tmp_path: Path
) -> None:
    shutil.copytree(layers[0][0], tmp_path / "changed")
    (tmp_path / "changed" / "sample.json").write_text("{}")
    publish(1, route("a", (tmp_path / "changed", layers[0][1])))

    async def work() -> None:
        await plane.router.look()
        answer = await ask(plane)
        assert answer.status == 503
        assert "sample.json has changed" in answer.payload.decode()

    run(work())


def test_a_failure_is_not_tried_again_at_once(
    plane: DataPlane, publish: Publish, layers: list[Bundle], tmp_path: Path
) -> None:
    broken = tmp_path / "broken", layers[1][1]
    publish(1, route("a", layers[0]), route("b", broken))

    async def work() -> None:
        await plane.router.look()
        for _ in range(3):
            with pytest.raises(Unavailable, match=r"manifest\.json is missing"):
                await plane.router.wake("b")
        assert plane.metrics.model_load_failures == 1
        assert "missing" in plane.router.failures["b"]

    run(work())


def test_one_of_several_models_may_not_take_what_others_need() -> None:
    async def work() -> None:
        flight = InFlight(RequestLimits(max_waiting=16))
        begun = []
        for _ in range(16 // SHARED_BY):
            flight.admit("slow")
            begun.append(flight.begin(lambda late: pytest.fail("it is not late"), "slow"))
        with pytest.raises(TooBusy, match="4 requests wait for slow"):
            flight.admit("slow")
        flight.admit("other")
        flight.admit()
        flight.end(begun[0], "slow")
        flight.admit("slow")

    run(work())
