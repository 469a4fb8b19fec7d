"""Port Documents: the fake and the folder keep the same promises."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pytest

from mlplatform.domain.access import AccessList, Grant
from mlplatform.domain.routes import CaptureRule, Route, Routes, WorkerStatus
from mlplatform.errors import ServerDidNotFollow, UsageError
from mlplatform.ports.store import Documents
from mlplatform.store.documents import FolderDocuments
from mlplatform.testing.fakes.serving import FakeDocuments

ROUTES = Routes(
    "churn",
    0,
    (Route("churn", 1, "d1", "/bundles/d1", 0.9), Route("churn", 2, "d2", "/bundles/d2", 0.1, "canary")),
    standby=(Route("churn", 3, "d3", "/bundles/d3", 0.0),),
    capture=CaptureRule(0.5, ("email",), ("ts",), 1000),
)
PID = os.getpid()


@dataclass
class Kit:
    documents: Documents
    report: Callable[[str, WorkerStatus], None]
    """What a worker does when it tells what it serves."""


@pytest.fixture(params=["fake", "folder"])
def kit(request: pytest.FixtureRequest, tmp_path: Path) -> Kit:
    if request.param == "fake":
        fake = FakeDocuments(tmp_path, follows=False)
        return Kit(fake, fake.report)
    documents = FolderDocuments(tmp_path)

    def report(endpoint: str, status: WorkerStatus) -> None:
        workers = documents.folder(endpoint) / "workers"
        workers.mkdir(parents=True, exist_ok=True)
        (workers / f"{status.pid}.json").write_bytes(status.encode())

    return Kit(documents, report)


def test_an_endpoint_without_document_has_no_routes_and_no_workers(kit: Kit) -> None:
    assert kit.documents.routes("churn") is None
    assert kit.documents.workers("churn") == []
    assert kit.documents.endpoints() == []


def test_what_is_published_is_read_back_whole(kit: Kit) -> None:
    published = kit.documents.publish(ROUTES)
    assert kit.documents.routes("churn") == published
    assert (published.routes, published.standby, published.capture) == (
        ROUTES.routes,
        ROUTES.standby,
        ROUTES.capture,
    )
    assert kit.documents.endpoints() == ["churn"]


def test_generations_count_up_whatever_the_caller_says(kit: Kit) -> None:
    assert [kit.documents.publish(ROUTES).generation for _ in range(3)] == [1, 2, 3]


def test_endpoints_do_not_share_generations(kit: Kit) -> None:
    kit.documents.publish(ROUTES)
    assert kit.documents.publish(Routes("other", 9, ())).generation == 1
    assert kit.documents.endpoints() == ["churn", "other"]


def test_models_of_one_endpoint_keep_what_they_have(kit: Kit) -> None:
    kit.documents.publish(ROUTES)
    fraud = Routes(
        "churn", 0, (Route("fraud", 7, "d7", "/bundles/d7"),), capture=CaptureRule(0.1), memory_mb=80
    )
    both = kit.documents.publish(fraud, "fraud")
    assert (both.generation, both.models, both.memory_mb) == (2, ("churn", "fraud"), 80)
    assert (both.part("churn"), both.part("fraud")) == (ROUTES.part("churn"), fraud.part("fraud"))
    successor = Routes("churn", 0, (Route("churn", 3, "d3", "/bundles/d3"),), capture=CaptureRule(0.2))
    again = kit.documents.publish(successor, "churn")
    assert (again.part("churn"), again.part("fraud")) == (successor.part("churn"), fraud.part("fraud"))
    assert kit.documents.routes("churn") == again


def test_a_model_is_taken_out_and_put_back(kit: Kit) -> None:
    kit.documents.publish(ROUTES)
    kit.documents.publish(Routes("churn", 0, (Route("fraud", 7, "d7", "/bundles/d7"),)))
    without = kit.documents.publish(Routes("churn", 0, ()), "fraud")
    assert (without.models, without.withdrawn) == (("churn",), ("fraud",))
    assert without.part("churn") == ROUTES.part("churn")
    assert kit.documents.publish(ROUTES).withdrawn == ("fraud",)
    back = kit.documents.publish(Routes("churn", 0, (Route("fraud", 8, "d8", "/bundles/d8"),)))
    assert (sorted(back.models), back.withdrawn) == (["churn", "fraud"], ())


def test_waiting_for_one_model_is_not_held_up_by_another(kit: Kit) -> None:
    for name in ("churn", "fraud", "slow"):
        kit.documents.publish(Routes("churn", 0, (Route(name, 1, "d", "/bundles/d"),)), name)
    behind = {"fraud": "model/model.onnx has changed", "slow": ""}
    kit.report("churn", WorkerStatus(PID, 1, rejected=3, error="...", taken=3, behind=behind))
    kit.documents.wait_in_effect("churn", 3, 0.05, "churn")
    with pytest.raises(ServerDidNotFollow, match="has changed"):
        kit.documents.wait_in_effect("churn", 3, 3600, "fraud")
    with pytest.raises(ServerDidNotFollow, match="has changed"):
        kit.documents.wait_in_effect("churn", 3, 3600)
    with pytest.raises(ServerDidNotFollow, match=r"behind|older"):
        kit.documents.wait_in_effect("churn", 3, 0.05, "slow")


def test_waiting_ends_when_every_worker_has_acknowledged(kit: Kit) -> None:
    generation = kit.documents.publish(ROUTES).generation
    kit.report("churn", WorkerStatus(PID, generation, counts={"churn@1": 3}))
    kit.documents.wait_in_effect("churn", generation, 0.05)
    assert kit.documents.workers("churn") == [WorkerStatus(PID, generation, counts={"churn@1": 3})]


def test_a_newer_generation_acknowledges_an_older_one(kit: Kit) -> None:
    kit.documents.publish(ROUTES)
    kit.documents.publish(ROUTES)
    kit.report("churn", WorkerStatus(PID, 2))
    kit.documents.wait_in_effect("churn", 1, 0.05)


def test_a_worker_that_stays_behind_is_an_error_that_names_the_log(kit: Kit) -> None:
    kit.documents.publish(ROUTES)
    kit.documents.publish(ROUTES)
    kit.report("churn", WorkerStatus(PID, 1))
    with pytest.raises(ServerDidNotFollow, match="generation 2") as caught:
        kit.documents.wait_in_effect("churn", 2, 0.05)
    assert "server.log" in caught.value.next_step


def test_a_rejection_is_reported_at_once_with_its_reason(kit: Kit) -> None:
    kit.documents.publish(ROUTES)
    kit.documents.publish(ROUTES)
    kit.report("churn", WorkerStatus(PID, 1, rejected=2, error="model/model.onnx has changed"))
    with pytest.raises(ServerDidNotFollow, match=r"model/model\.onnx has changed"):
        kit.documents.wait_in_effect("churn", 2, 3600)


def test_nobody_running_is_not_in_effect(kit: Kit) -> None:
    kit.documents.publish(ROUTES)
    with pytest.raises(ServerDidNotFollow, match="no worker"):
        kit.documents.wait_in_effect("churn", 1, 0.05)


def test_waiting_for_a_server_ends_soon_after_it_was_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mlplatform.store.documents.STOPPED_SECONDS", 0.05)
    documents = FolderDocuments(tmp_path)
    documents.publish(ROUTES)
    with pytest.raises(ServerDidNotFollow, match="it was stopped meanwhile"):
        documents.wait_in_effect("churn", 1, 3600)
    (documents.folder("churn") / "server.json").write_text("{}")
    with pytest.raises(ServerDidNotFollow, match="no worker has started"):
        documents.wait_in_effect("churn", 1, 0.2)  # it was killed, and somebody may start it again


# --- whose tokens hold ----------------------------------------------------------------------------------------------

SHOP = Grant("0123abcd", "5f" * 32, ("predict:churn",), datetime(2026, 3, 1, tzinfo=UTC))
OPS = Grant("0123abce", "6f" * 32, ("metrics",))


def test_an_endpoint_without_access_list_has_none(kit: Kit) -> None:
    assert kit.documents.access("churn") is None


def test_an_access_list_is_read_back_whole_and_makes_the_endpoint_known(kit: Kit) -> None:
    written = kit.documents.grant("churn", lambda: (SHOP, OPS))
    assert kit.documents.access("churn") == written == AccessList("churn", 1, (SHOP, OPS))
    assert kit.documents.endpoints() == ["churn"]
    assert kit.documents.routes("churn") is None


def test_numbers_of_access_lists_count_what_changed(kit: Kit) -> None:
    lists: list[tuple[Grant, ...]] = [(), (SHOP,), (SHOP,), (OPS, SHOP), (SHOP, OPS), (), ()]
    numbers = [kit.documents.grant("churn", lambda given=given: given).generation for given in lists]
    assert numbers == [1, 2, 2, 3, 3, 4, 4]
    assert kit.documents.grant("other", tuple).generation == 1


@pytest.mark.parametrize("name", ["", "../up", "a/b", ".hidden"])
def test_a_name_that_leaves_the_folder_is_refused(kit: Kit, name: str) -> None:
    with pytest.raises(UsageError, match="endpoint"):
        kit.documents.folder(name)
    with pytest.raises(UsageError, match="endpoint"):
        kit.documents.publish(Routes(name, 0, ()))
