"""Following routes.json: all of a new document or nothing of it."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from mlplatform.domain.bundle import Manifest
from mlplatform.domain.routes import CaptureRule, Route, Routes
from mlplatform.serving.decode import Rows
from mlplatform.serving.ids import uuid7
from mlplatform.serving.metrics import Metrics
from mlplatform.serving.models.predictor import Table, answer
from mlplatform.serving.models.routes import Router
from mlplatform.serving.problems import ModelFailed, Problem
from mlplatform.stats.batch import Array, Batch, Outputs

Bundle = tuple[Path, Manifest]
Publish = Callable[..., None]


@pytest.fixture
def swapped() -> list[Table]:
    return []


@pytest.fixture
def router(tmp_path: Path, swapped: list[Table]) -> Router:
    return Router(tmp_path, Metrics(), swapped.append)


def look(router: Router) -> bool:
    return asyncio.run(router.look())


def copy(bundle: Bundle, to: Path) -> Bundle:
    shutil.copytree(bundle[0], to)
    return to, bundle[1]


def ask(table: Table, names: str = "abc") -> int:
    arm = table.pick(uuid7())
    assert arm is not None
    rows = Rows(Batch(tuple(names), np.zeros((1, len(names)))))
    return int(arm.answer(rows).predictions[0])


def test_without_a_document_nothing_is_served(router: Router) -> None:
    assert not look(router)
    assert router.table.pick("x") is None
    assert router.status().generation == 0


def test_a_document_is_put_into_effect_once(
    router: Router, publish: Publish, numeric: Bundle, swapped: list[Table]
) -> None:
    publish(numeric)
    assert look(router)
    assert not look(router)
    assert ask(router.table) in (0, 1)
    assert swapped == [router.table]
    assert router.status().generation == 1


def test_a_new_document_swaps_and_the_old_table_still_answers(
    router: Router, publish: Publish, numeric: Bundle, other: Bundle
) -> None:
    publish(numeric)
    look(router)
    old = router.table
    publish(other, generation=2)
    look(router)
    assert ask(router.table) in (10, 11)
    assert ask(old) in (0, 1)


def test_standby_bundles_are_loaded_and_get_no_traffic(
    router: Router, publish: Publish, numeric: Bundle, other: Bundle
) -> None:
    publish(numeric, standby=(other,))
    look(router)
    assert set(router.table.bundles) == {numeric[1].digest, other[1].digest}
    assert {ask(router.table) for _ in range(50)} <= {0, 1}


def test_bundles_that_stay_are_not_loaded_again(
    router: Router, publish: Publish, numeric: Bundle, other: Bundle, tmp_path: Path
) -> None:
    first = copy(numeric, tmp_path / "copy")
    publish(first)
    look(router)
    loaded = router.table.bundles[first[1].digest]
    shutil.rmtree(first[0])
    publish(other, generation=2, standby=(first,))
    look(router)
    assert router.table.generation == 2
    assert router.table.bundles[first[1].digest] is loaded


def change_a_byte(folder: Path) -> None:
    path = folder / "model" / "model.onnx"
    raw = bytearray(path.read_bytes())
    raw[100] ^= 1
    path.write_bytes(raw)


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "changed byte": (change_a_byte, "model/model.onnx has changed"),
    "missing file": (lambda f: (f / "sample.json").unlink(), "sample.json is missing"),
    "added file": (lambda f: (f / "model" / ".git").write_text("x"), "model/.git was added"),
    "other manifest": (lambda f: (f / "manifest.json").write_text("{}"), "manifest.json has changed"),
    "no folder": (shutil.rmtree, "manifest.json is missing"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_bundle_keeps_the_last_good_and_names_the_file(
    router: Router, publish: Publish, numeric: Bundle, other: Bundle, tmp_path: Path, damage: str
) -> None:
    publish(numeric)
    look(router)
    broken = copy(other, tmp_path / "broken")
    spoil, said = DAMAGES[damage]
    spoil(broken[0])
    publish(numeric, broken, generation=2)
    look(router)
    status = router.status()
    assert (status.generation, status.rejected) == (1, 2)
    assert said in status.error
    assert ask(router.table) in (0, 1)
    publish(other, generation=3)
    look(router)
    assert (router.status().generation, router.status().rejected, router.status().error) == (3, None, "")


def test_a_model_that_fails_on_its_own_sample_never_takes_traffic(
    router: Router, publish: Publish, numeric: Bundle, tmp_path: Path
) -> None:
    from mlplatform.testing.bundles import make_log_bundle

    bad = make_log_bundle(tmp_path / "bad", sample=(1.0, -1.0))
    publish(numeric)
    look(router)
    publish((tmp_path / "bad", bad), generation=2)
    look(router)
    assert router.status().rejected == 2
    assert "not finite" in router.status().error
    assert router.table.generation == 1


def test_a_runtime_that_is_not_known_is_named(router: Router, tmp_path: Path) -> None:
    from dataclasses import replace

    from mlplatform.testing.bundles import make_log_bundle

    manifest = replace(make_log_bundle(tmp_path / "b"), runtime="onx")
    (tmp_path / "b" / "manifest.json").write_bytes(manifest.encode())
    route = Route("m", 1, manifest.digest, str(tmp_path / "b"))
    (tmp_path / "routes.json").write_bytes(Routes("e", 1, (route,)).encode())
    look(router)
    assert "'onx'" in router.status().error


@pytest.mark.parametrize("raw", [b"", b"{", b"[]", b'{"endpoint": "e"}', b"\xff\xfe"])
def test_a_file_that_is_no_document_keeps_the_last_good(
    router: Router, publish: Publish, numeric: Bundle, tmp_path: Path, raw: bytes
) -> None:
    publish(numeric)
    look(router)
    (tmp_path / "routes.json").write_bytes(raw)
    look(router)
    assert "not a routes document" in router.status().error
    assert router.table.generation == 1


@pytest.mark.parametrize("shares", [(0.5,), (0.7, 0.7), (1.5, -0.5)])
def test_shares_that_are_not_a_whole_are_refused(
    router: Router, numeric: Bundle, tmp_path: Path, shares: tuple[float, ...]
) -> None:
    routes = tuple(Route("m", 1, numeric[1].digest, str(numeric[0]), share) for share in shares)
    (tmp_path / "routes.json").write_bytes(Routes("e", 1, routes).encode())
    look(router)
    assert "do not add up to 1" in router.status().error


def test_traffic_is_split_by_share_and_an_id_always_meets_the_same_arm(
    router: Router, numeric: Bundle, other: Bundle, tmp_path: Path
) -> None:
    routes = (
        Route("m", 1, numeric[1].digest, str(numeric[0]), 0.8),
        Route("m", 2, other[1].digest, str(other[0]), 0.2, "canary"),
    )
    (tmp_path / "routes.json").write_bytes(Routes("e", 1, routes).encode())
    look(router)
    ids = [uuid7() for _ in range(3000)]
    picked = [router.table.pick(i) for i in ids]
    assert 500 < sum(arm is router.table.arms[1] for arm in picked) < 700
    assert picked == [router.table.pick(i) for i in ids]


def test_the_capture_rule_travels_with_the_table(
    router: Router, publish: Publish, numeric: Bundle, swapped: list[Table]
) -> None:
    publish(numeric, capture=CaptureRule(0.5, ("a",), ("ts",)))
    look(router)
    assert swapped[0].rule == CaptureRule(0.5, ("a",), ("ts",))
    assert swapped[0].arms[0].rows.context == {"ts"}


class Answers:
    def __init__(self, outputs: Outputs | Exception) -> None:
        self._outputs = outputs

    def predict(self, batch: Batch) -> Outputs:
        if isinstance(self._outputs, Exception):
            raise self._outputs
        return self._outputs


@pytest.mark.parametrize(
    ("outputs", "said"),
    [
        (RuntimeError("secret path /etc"), "failed on this request: RuntimeError"),
        (Outputs(np.array([np.nan])), "not finite"),
        (Outputs(np.array([np.inf])), "not finite"),
        (Outputs(np.full((1, 50), np.inf)), "not finite"),
        (Outputs(np.array([1]), np.array([[0.5, np.nan]])), "not finite"),
        (Outputs(np.array([1.0]), others={"second": np.array([[1.0, -np.inf]])}), "not finite"),
        (Outputs(np.array([1, 2])), "answered 2 rows of 1"),
    ],
)
def test_a_model_that_fails_is_the_servers_fault(outputs: Outputs | Exception, said: str) -> None:
    batch = Batch(("a",), np.zeros((1, 1)))
    with pytest.raises(ModelFailed, match=said) as caught:
        answer("m@1", Answers(outputs), Rows(batch))
    assert caught.value.status == 500
    assert "secret" not in str(caught.value)


GAP, HUGE = "a missing value", "expected a number in the range of float"


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (np.array([0.5, np.nan]), GAP),
        (np.array([[[0.5, 1.0]], [[np.nan, 1.0]]], np.float32), GAP),
        (np.array(["x", None], object), GAP),
        (np.array(["2026-01-31", "NaT"], "datetime64[ns]"), GAP),
        (np.array([0.5, -1e300]), HUGE),
        (np.array([[0.5, 1.0], [3e38, 3e38]], np.float32), HUGE),
    ],
)
@pytest.mark.parametrize(
    "outputs", [RuntimeError("secret path /etc"), Outputs(np.array([1.0, np.nan]))], ids=["raises", "nan"]
)
def test_a_model_that_fails_on_a_missing_or_huge_value_is_the_clients_error(
    outputs: Outputs | Exception, values: Array, said: str
) -> None:
    with pytest.raises(Problem) as asked:
        answer("m@1", Answers(outputs), Rows(Batch(("a",), arrays={"a": values})))
    assert asked.value.status == 400
    assert str(asked.value).startswith(f"column 'a', row 1: {said}")
