"""Port Documents: the fake and the folder keep the same promises."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

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


@pytest.mark.parametrize("name", ["", "../up", "a/b", ".hidden"])
def test_a_name_that_leaves_the_folder_is_refused(kit: Kit, name: str) -> None:
    with pytest.raises(UsageError, match="endpoint"):
        kit.documents.folder(name)
    with pytest.raises(UsageError, match="endpoint"):
        kit.documents.publish(Routes(name, 0, ()))
