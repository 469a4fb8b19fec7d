"""What people and accidents do behind our back: doctor explains it and changes nothing, reconcile repairs it once."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mlplatform.domain.routes import CaptureRule, Route, Routes
from mlplatform.flows.lease import holding
from mlplatform.plugins.targets.local import LocalTarget
from mlplatform.ports.extensions import ServerSpec
from mlplatform.tracking.client import Mlflow
from tests import documents
from tests.small_project import MODEL, PLACES, Place, answering, assert_whole

PAGE = Path(__file__).parents[2] / "docs" / "operations.md"
REASON = ("--reason", "because")
PATIENCE_SECONDS = 90.0


def doctor(place: Place, code: int) -> list[str]:
    """What it tells, after making sure that looking changed nothing."""
    before = everything(place)
    told = place.told("doctor", code=code)
    assert everything(place) == before
    return [difference["what"] for difference in told["differences"]]


def reconcile(place: Place, code: int = 0) -> list[str]:
    """What it found; the code is 3 when something is left for a person."""
    return [difference["what"] for difference in place.told("reconcile", code=code)]


def everything(place: Place) -> dict[str, Any]:
    with place.opened() as platform:
        world = platform.world
        view = world.registry.outside(MODEL)
        return {
            "entries": [e.hash for e in world.ledger.entries(MODEL)],
            "places": dict(world.ledger.standings(MODEL).places),
            "due": world.outbox.due(),
            "intents": world.intents.left(),
            "aliases": dict(view.aliases),
            "versions": view.versions,
            "rollouts": world.deployments.history(MODEL),
            "routes": (place.servers / MODEL / "routes.json").read_bytes(),
            "staging": sorted((place.folder / ".mlplatform" / "staging").glob("*")),
            "server": platform.endpoint(MODEL).server,
        }


def in_mlflow(place: Place, name: str, *arguments: str) -> None:
    """Somebody at work in MLflow."""
    Mlflow(place.environment["MLPLATFORM_TRACKING_URI"]).call(name, MODEL, *arguments)


def repaired(place: Place, told: str, places: dict[int, str] = PLACES, run_left: bool = False) -> None:
    """Doctor tells it, reconcile mends it, and then there is nothing to tell or to mend."""
    [what] = doctor(place, 3)
    assert told in what
    assert reconcile(place) == [what]
    assert doctor(place, 0) == []
    assert reconcile(place) == []
    assert_whole(place, places, run_left)


# --- MLflow ---------------------------------------------------------------------------------------------------------


def test_an_alias_moved_by_hand_is_set_back(sqlite_place: Place) -> None:
    in_mlflow(sqlite_place, "set_registered_model_alias", "production", "4")
    repaired(sqlite_place, "alias production names version 4, the ledger says version 2")
    assert "set back" in newest_reason(sqlite_place)


def test_an_alias_deleted_by_hand_is_set_again(sqlite_place: Place) -> None:
    in_mlflow(sqlite_place, "delete_registered_model_alias", "staging")
    repaired(sqlite_place, "alias staging names nothing, the ledger says version 3")


def test_an_alias_moved_by_hand_is_recorded_where_the_policy_says_so(sqlite_place: Place) -> None:
    record_moves(sqlite_place)
    in_mlflow(sqlite_place, "set_registered_model_alias", "staging", "4")
    moved = {**PLACES, 4: "staging", 3: "RETIRED"}
    repaired(sqlite_place, "alias staging names version 4, the ledger says version 3", moved)
    assert "recorded" in newest_reason(sqlite_place)


def test_nothing_goes_live_by_an_alias(sqlite_place: Place) -> None:
    """A stage with an endpoint: traffic would have to follow, without gates and without a way back."""
    record_moves(sqlite_place)
    in_mlflow(sqlite_place, "set_registered_model_alias", "production", "3")
    repaired(sqlite_place, "alias production names version 3, the ledger says version 2")
    assert "goes live there only by `mlplatform promote`" in newest_reason(sqlite_place)


def newest_reason(place: Place) -> str:
    return str(place.told("history", MODEL)[-1]["draft"]["reason"])


def test_a_version_deleted_in_mlflow_is_told_and_recorded_once(sqlite_place: Place) -> None:
    in_mlflow(sqlite_place, "delete_model_version", "2")
    [what] = doctor(sqlite_place, 3)
    assert what == "version 2 (production) was deleted in MLflow"
    assert reconcile(sqlite_place) == [what]
    assert doctor(sqlite_place, 0) == []
    assert reconcile(sqlite_place) == []
    sqlite_place.done("deploy", MODEL)
    with sqlite_place.opened() as platform:
        assert answering(platform.endpoint(MODEL).server.url) == f"{MODEL}@2"
        assert dict(platform.world.ledger.standings(MODEL).places) == PLACES


def test_a_moved_alias_is_kept_in_the_ledger_by_the_command_that_writes_over_it(sqlite_place: Place) -> None:
    in_mlflow(sqlite_place, "set_registered_model_alias", "production", "4")
    sqlite_place.done("register", MODEL, "--run", sqlite_place.fresh_run)
    assert newest_reason(sqlite_place) == (
        "alias production was moved to version 4 in MLflow by somebody; set back"
    )
    assert_whole(sqlite_place, {**PLACES, 6: "CANDIDATE"})


def test_a_deleted_registered_model_is_made_again_with_its_numbers(sqlite_place: Place) -> None:
    in_mlflow(sqlite_place, "delete_registered_model")
    said = sqlite_place.done("register", MODEL, "--run", sqlite_place.fresh_run, code=3)
    assert f"MLflow no longer knows the registered model {MODEL}" in said
    assert f"mlplatform reconcile {MODEL}" in said
    repaired(sqlite_place, f"the registered model {MODEL} was deleted in MLflow")
    sqlite_place.done("register", MODEL, "--run", sqlite_place.fresh_run)
    assert_whole(sqlite_place, {**PLACES, 6: "CANDIDATE"})


def test_a_renamed_registered_model_gets_its_name_back(sqlite_place: Place) -> None:
    in_mlflow(sqlite_place, "rename_registered_model", "other")
    repaired(sqlite_place, f"the registered model {MODEL} was renamed to other in MLflow")


def test_a_deleted_run_is_restored(sqlite_place: Place) -> None:
    store = Mlflow(sqlite_place.environment["MLPLATFORM_TRACKING_URI"])
    run_id = run_of(sqlite_place, 2)
    store.call("delete_run", run_id)
    repaired(sqlite_place, f"run {run_id[:8]} of version 2 (production) was deleted in MLflow")
    assert store.call("get_run", run_id).info.lifecycle_stage == "active"


def test_a_run_that_mlflow_gc_removed_for_good_is_told_and_recorded_once(sqlite_place: Place) -> None:
    uri, run_id = sqlite_place.environment["MLPLATFORM_TRACKING_URI"], run_of(sqlite_place, 2)
    Mlflow(uri).call("delete_run", run_id)
    command = [sys.executable, "-m", "mlflow", "gc", "--backend-store-uri", uri, "--run-ids", run_id]
    subprocess.run(command, env=os.environ | {"MLFLOW_TRACKING_URI": uri}, check=True, capture_output=True)
    repaired(sqlite_place, f"run {run_id[:8]} of version 2 (production) was deleted in MLflow")
    sqlite_place.done("deploy", MODEL)
    with sqlite_place.opened() as platform:
        assert answering(platform.endpoint(MODEL).server.url) == f"{MODEL}@2"


def run_of(place: Place, number: int) -> str:
    with place.opened() as platform:
        return platform.version(f"{MODEL}@{number}").run_id


@pytest.mark.parametrize(
    "edit",
    [
        ("update_model_version", "3", "do not look here"),
        ("set_model_version_tag", "3", "mlplatform.place", "production"),
        ("delete_model_version_tag", "3", "mlplatform.digest"),
    ],
    ids=["description", "tag", "deleted-tag"],
)
def test_an_edited_card_is_written_again(sqlite_place: Place, edit: tuple[str, ...]) -> None:
    in_mlflow(sqlite_place, "set_model_version_tag", "3", "team", "growth")
    in_mlflow(sqlite_place, *edit)
    repaired(sqlite_place, "the card or our tags of version 3 were edited in MLflow")
    store = Mlflow(sqlite_place.environment["MLPLATFORM_TRACKING_URI"])
    shown = store.call("get_model_version", MODEL, "3")
    assert shown.tags["mlplatform.place"] == "staging" and "mlplatform.digest" in shown.tags
    assert shown.description.startswith(f"### {MODEL}@3")
    assert shown.tags["team"] == "growth", "tags of others are theirs"


def test_what_mlflow_made_after_a_registration_was_given_up_is_taken_back(sqlite_place: Place) -> None:
    """A slow server answers when nobody listens any more."""
    with sqlite_place.opened() as platform:
        key = f"register:{MODEL}:{sqlite_place.fresh_run}"
        assert platform.world.registry.create(MODEL, sqlite_place.fresh_run, key) == 6
    repaired(sqlite_place, "version 6 in MLflow was left by a registration that was given up")


def test_the_page_says_what_the_commands_say(sqlite_place: Place) -> None:
    in_mlflow(sqlite_place, "set_registered_model_alias", "production", "3")
    in_mlflow(sqlite_place, "update_model_version", "3", "better than it looks")
    in_mlflow(sqlite_place, "delete_model_version", "4")
    section = PAGE.read_text().split("## Reconcile and doctor\n")[1].split("\n## ")[0]
    for step in (step for step in documents.steps(section) if step.command):
        sqlite_place.run(*step.command.split()[1:])
        said = (sqlite_place.folder / "output.log").read_text()
        assert documents.same("\n".join(step.shown), said, sqlite_place.folder), f"$ {step.command}\n{said}"


# --- bytes ----------------------------------------------------------------------------------------------------------


def test_a_changed_byte_is_refused_everywhere_and_the_server_goes_on(sqlite_place: Place) -> None:
    place = sqlite_place
    place.done("deploy", MODEL)
    live, candidate, before = (change_a_byte(place, number) for number in (2, 3, 1))
    told = doctor(place, 3)
    assert [any(name in what for what in told) for name in (live, candidate, before)] == [True] * 3
    for words, name in {
        ("deploy", MODEL): live,
        ("serve", f"{MODEL}@2"): live,
        ("promote", f"{MODEL}@3", "production", *REASON): candidate,
        ("rollback", MODEL, *REASON): before,
        ("predict", f"{MODEL}@2", str(place.folder / "rows.csv")): live,
    }.items():
        (place.folder / "rows.csv").write_text("c0,c1,c2\n1,2,3\n")
        said = place.done(*words, code=3)
        assert "The bytes of bundle" in said and name in said, said
    reconcile(place, 3)
    with place.opened() as platform:
        assert answering(platform.endpoint(MODEL).server.url) == f"{MODEL}@2"
        assert dict(platform.world.ledger.standings(MODEL).places) == PLACES
        assert platform.world.intents.left() == []


def change_a_byte(place: Place, number: int) -> str:
    """The name of the changed file, relative to its bundle."""
    with place.opened() as platform:
        bundle = platform.world.bundles.path(platform.version(f"{MODEL}@{number}").digest)
    file = max(bundle.glob("model/*"), key=lambda path: path.stat().st_size)
    raw = bytearray(file.read_bytes())
    raw[len(raw) // 2] ^= 1
    file.chmod(0o644)
    file.write_bytes(raw)
    return file.relative_to(bundle).as_posix()


# --- servers --------------------------------------------------------------------------------------------------------


def test_a_killed_server_is_started_again(sqlite_place: Place) -> None:
    sqlite_place.done("deploy", MODEL)
    with sqlite_place.opened() as platform:
        server = platform.endpoint(MODEL).server
        os.kill(server.pid, signal.SIGKILL)
        wait(lambda: not platform.endpoint(MODEL).server.running)
        wait(lambda: not platform.world.documents.workers(MODEL))
    repaired(sqlite_place, f"the server of endpoint {MODEL} died", run_left=True)


def test_a_server_that_was_killed_and_then_undeployed_stays_down(sqlite_place: Place) -> None:
    sqlite_place.done("deploy", MODEL)
    with sqlite_place.opened() as platform:
        os.kill(platform.endpoint(MODEL).server.pid, signal.SIGKILL)
        wait(lambda: not platform.endpoint(MODEL).server.running)
    sqlite_place.done("undeploy", MODEL)
    assert doctor(sqlite_place, 0) == []


@pytest.mark.parametrize("running", [True, False])
def test_a_document_of_another_version_is_replaced(sqlite_place: Place, running: bool) -> None:
    if running:
        sqlite_place.done("deploy", MODEL)
    with sqlite_place.opened() as platform:
        other = platform.version(f"{MODEL}@4")
        path = str(platform.world.bundles.path(other.digest))
        route = Route(MODEL, other.number, other.digest, path)
        published = platform.world.documents.publish(
            Routes(MODEL, 0, (route,), capture=CaptureRule(context=("at",)))
        )
        if running:
            platform.world.documents.wait_in_effect(MODEL, published.generation, 30)
            assert answering(platform.endpoint(MODEL).server.url) == f"{MODEL}@4"
    repaired(sqlite_place, f"told to serve something other than {MODEL}@2", run_left=running)


def test_a_server_that_rejects_what_it_was_told_is_told(sqlite_place: Place) -> None:
    """The document is right; the bytes were not when the server looked, and are again."""
    place = sqlite_place
    with place.opened() as platform:
        bundle = platform.world.bundles.path(platform.version(f"{MODEL}@2").digest)
        (bundle / "model" / "added").write_text("x")
        server = LocalTarget().apply(ServerSpec(MODEL, place.servers / MODEL))
        wait(lambda: any(w.rejected for w in platform.world.documents.workers(MODEL)))
        (bundle / "model" / "added").unlink()
    assert server.running
    repaired(place, f"the server of endpoint {MODEL} does not serve what it was told", run_left=True)


def test_a_damaged_document_is_replaced(sqlite_place: Place) -> None:
    sqlite_place.done("deploy", MODEL)
    [what] = told_of_damage(sqlite_place)
    assert f"told to serve something other than {MODEL}@2" in what
    assert reconcile(sqlite_place) == [what]
    assert_whole(sqlite_place, PLACES, run_left=True)


def told_of_damage(place: Place) -> list[str]:
    (place.servers / MODEL / "routes.json").write_text('{"endpoint": ')
    told = place.told("doctor", code=3)
    return [difference["what"] for difference in told["differences"]]


# --- our own records ------------------------------------------------------------------------------------------------


def test_a_half_done_registration_is_told_and_undone(sqlite_place: Place) -> None:
    code, _ = sqlite_place.run(
        "register", MODEL, "--run", sqlite_place.fresh_run, failpoint="register:created"
    )
    assert code == -signal.SIGKILL
    repaired(sqlite_place, "a registration stopped half-way")


def test_a_half_done_rollout_is_told_and_brought_to_its_end(sqlite_place: Place) -> None:
    words = ("promote", f"{MODEL}@3", "production", *REASON)
    assert sqlite_place.run(*words, failpoint="deploy:shifted")[0] == -signal.SIGKILL
    told = doctor(sqlite_place, 3)
    assert any(f"the rollout of {MODEL}@3 stopped half-way (opened)" in what for what in told)
    reconcile(sqlite_place)
    assert_whole(sqlite_place, {**PLACES, 3: "production", 2: "STANDBY", 1: "RETIRED"}, run_left=True)


def test_what_is_being_done_is_not_taken_for_half_done(sqlite_place: Place) -> None:
    code, _ = sqlite_place.run(
        "register", MODEL, "--run", sqlite_place.fresh_run, failpoint="register:created"
    )
    assert code == -signal.SIGKILL
    with sqlite_place.opened() as platform, holding(platform.world.leases, f"change:{MODEL}", platform.owner):
        told = sqlite_place.told("doctor")
        assert told["differences"] == []


def test_an_edited_ledger_row_is_told(place: Place) -> None:
    from sqlalchemy import text

    with place.opened() as platform:
        edit = text("UPDATE ledger SET reason = 'all good' WHERE model = :model AND seq = 5")
        platform._wiring.database.write(lambda c: c.execute(edit, {"model": MODEL}))
    assert "ledger entry 5 was changed after it was written" in place.done("db", "status", code=3)
    assert doctor(place, 3) == ["ledger entry 5 was changed after it was written"]
    reconcile(place, 3)
    assert doctor(place, 3) == ["ledger entry 5 was changed after it was written"], (
        "nobody can repair the past"
    )


def wait(until: Callable[[], bool]) -> None:
    deadline, pause = time.monotonic() + PATIENCE_SECONDS, threading.Event()
    while not until():
        assert time.monotonic() < deadline, "waited in vain"
        pause.wait(0.05)


def record_moves(place: Place) -> None:
    policy = place.folder / "policy.toml"
    policy.write_text(policy.read_text() + '\n[reconcile]\noutside_moves = "record"\n')
