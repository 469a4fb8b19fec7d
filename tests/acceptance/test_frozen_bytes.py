"""Registration freezes bytes: what leads elsewhere is refused by name, and whatever changed afterwards, by everybody.

Through the real register, promote, deploy and server.
"""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from mlplatform.domain.routes import Route, Routes
from mlplatform.errors import ServerDidNotFollow
from mlplatform.plugins.targets.local import LocalTarget
from mlplatform.ports.extensions import ServerSpec
from mlplatform.tracking.client import Mlflow
from mlplatform.trust.limits import MAX_FILES
from tests.small_project import MODEL, PLACES, Place, answering, assert_whole

REASON = ("--reason", "because")
Damage = Callable[[Path], None]


def logged(place: Place) -> Path:
    """The folder in MLflow's store with the model of the run that is not registered."""
    store = Mlflow(place.environment["MLPLATFORM_TRACKING_URI"])
    run = store.call("get_run", place.fresh_run)
    model_id = run.data.tags["mlplatform.model_id"]
    return Path(str(store.call("get_logged_model", model_id).artifact_location).removeprefix("file://"))


def bundle(place: Place, number: int) -> Path:
    with place.opened() as platform:
        return platform.world.bundles.path(platform.version(f"{MODEL}@{number}").digest)


# --- into the registry ----------------------------------------------------------------------------------------------


def edit_mlmodel(new: str) -> Damage:
    """Let MLmodel name its model elsewhere."""

    def damage(folder: Path) -> None:
        file = folder / "MLmodel"
        file.write_text(file.read_text().replace("model.skops", new))

    return damage


def setuid(folder: Path) -> None:
    file = folder / "model.skops"
    file.chmod(file.stat().st_mode | stat.S_ISUID)


def too_many(folder: Path) -> None:
    for number in range(MAX_FILES):
        (folder / f"extra-{number}.json").write_text("{}")


def too_much(folder: Path) -> None:
    with (folder / "weights.json").open("wb") as file:
        file.truncate(5 << 30)  # sparse: nothing is written


UNSAFE: dict[str, tuple[Damage, str]] = {
    "link": (lambda f: (f / "passwd").symlink_to("/etc/passwd"), "passwd"),
    "link to a folder": (lambda f: (f / "etc").symlink_to("/etc"), "etc"),
    "link inside": (lambda f: (f / "again.skops").symlink_to("model.skops"), "again.skops"),
    "pipe": (lambda f: os.mkfifo(f / "pipe"), "pipe"),
    "setuid": (setuid, "model.skops"),
    "upwards": (edit_mlmodel("../../elsewhere/model.skops"), "MLmodel"),
    "absolute": (edit_mlmodel("/etc/model.skops"), "MLmodel"),
    "address": (edit_mlmodel("https://example.com/model.skops"), "MLmodel"),
    "code": (lambda f: (f / "code").mkdir(), "code"),
    "too many files": (too_many, "files"),
    "too many bytes": (too_much, "GiB"),
}


@pytest.mark.parametrize("what", UNSAFE)
def test_what_leads_elsewhere_is_refused_by_name_and_leaves_nothing(sqlite_place: Place, what: str) -> None:
    damage, name = UNSAFE[what]
    damage(logged(sqlite_place))
    said = sqlite_place.done("register", MODEL, "--run", sqlite_place.fresh_run, code=3)
    assert "is refused:" in said and name in said, said
    assert "Log the model again" in said
    assert_whole(sqlite_place, PLACES)


def test_a_file_with_a_second_name_is_copied_not_shared(sqlite_place: Place) -> None:
    """A hard link: whoever holds the other name writes into the original, not into the bundle."""
    original = logged(sqlite_place) / "model.skops"
    os.link(original, sqlite_place.folder / "mine")
    sqlite_place.done("register", MODEL, "--run", sqlite_place.fresh_run)
    frozen = bundle(sqlite_place, 6) / "model" / "model.skops"
    assert frozen.stat().st_nlink == 1 and frozen.stat().st_ino != original.stat().st_ino
    (sqlite_place.folder / "mine").write_bytes(b"something else")
    sqlite_place.done("promote", f"{MODEL}@6", "staging", *REASON)


def test_what_happens_to_the_run_afterwards_changes_nothing(sqlite_place: Place) -> None:
    sqlite_place.done("register", MODEL, "--run", sqlite_place.fresh_run)
    shutil.rmtree(logged(sqlite_place))
    sqlite_place.done("promote", f"{MODEL}@6", "staging", *REASON)
    sqlite_place.done("promote", f"{MODEL}@6", "production", *REASON)
    with sqlite_place.opened() as platform:
        assert answering(platform.endpoint(MODEL).server.url) == f"{MODEL}@6"


def test_a_run_whose_files_are_gone_is_refused_though_mlflow_calls_it_ready(sqlite_place: Place) -> None:
    store = Mlflow(sqlite_place.environment["MLPLATFORM_TRACKING_URI"])
    shutil.rmtree(logged(sqlite_place))
    nowhere = str(logged(sqlite_place))
    made = store.call("create_model_version", MODEL, nowhere, run_id=sqlite_place.fresh_run)
    assert made.status == "READY"
    store.call("delete_model_version", MODEL, made.version)
    said = sqlite_place.done("register", MODEL, "--run", sqlite_place.fresh_run, code=3)
    assert "cannot become a version: model missing" in said and "log_candidate" in said
    assert_whole(sqlite_place, PLACES)


def test_the_ledger_keeps_the_digest_and_finds_another_one_put_in_its_place(sqlite_place: Place) -> None:
    from sqlalchemy import text

    told = sqlite_place.told("register", MODEL, "--run", sqlite_place.fresh_run)
    entry = sqlite_place.told("history", MODEL)[-1]
    assert entry["draft"]["data"]["version"]["digest"] == told["digest"] == bundle(sqlite_place, 6).name
    other = bundle(sqlite_place, 4).name
    swap = text("UPDATE versions SET digest = :digest WHERE model = :model AND number = 6")
    with sqlite_place.opened() as platform:
        platform._wiring.database.write(lambda c: c.execute(swap, {"digest": other, "model": MODEL}))
    differences = sqlite_place.told("doctor", code=3)["differences"]
    assert any("6" in d["what"] and "digest" in d["what"] for d in differences), differences


# --- afterwards -----------------------------------------------------------------------------------------------------


def flip(folder: Path) -> str:
    file = folder / "model" / "model.skops"
    file.chmod(0o644)
    raw = bytearray(file.read_bytes())
    raw[len(raw) // 2] ^= 1
    file.write_bytes(raw)
    return "model/model.skops"


def add(folder: Path) -> str:
    (folder / "model" / "extra.py").write_text("import os")
    return "model/extra.py"


def remove(folder: Path) -> str:
    (folder / "model" / "MLmodel").unlink()
    return "model/MLmodel"


def link(folder: Path) -> str:
    """Equal bytes today, whatever its target says tomorrow."""
    file = folder / "model" / "model.skops"
    file.rename(folder.parent / "kept")
    file.symlink_to(folder.parent / "kept")
    return "model/model.skops"


def link_folder(folder: Path) -> str:
    (folder / "model" / "more").symlink_to("/etc")
    return "model/more"


def pipe(folder: Path) -> str:
    file = folder / "model" / "model.skops"
    file.unlink()
    os.mkfifo(file)
    return "model/model.skops"


def manifest(folder: Path) -> str:
    file = folder / "manifest.json"
    file.chmod(0o644)
    file.write_bytes(file.read_bytes() + b" ")
    return "manifest.json"


CHANGES = [flip, add, remove, link, link_folder, pipe, manifest]


@pytest.mark.parametrize("change", CHANGES)
def test_every_change_is_refused_by_promote_rollback_and_deploy(
    sqlite_place: Place, change: Callable[[Path], str]
) -> None:
    commands = {
        1: ("rollback", MODEL, *REASON),
        2: ("deploy", MODEL),
        3: ("promote", f"{MODEL}@3", "production", *REASON),
    }
    for number, words in commands.items():
        name = change(bundle(sqlite_place, number))
        said = sqlite_place.done(*words, code=3)
        assert "The bytes of bundle" in said and name in said, said
    with sqlite_place.opened() as platform:
        assert dict(platform.world.ledger.standings(MODEL).places) == PLACES


@pytest.mark.parametrize("change", CHANGES)
def test_a_server_refuses_changed_bytes_by_itself_and_keeps_what_it_serves(
    sqlite_place: Place, change: Callable[[Path], str]
) -> None:
    """Nobody verifies for it here: the document is written as it would be by a control plane that was deceived."""
    place = sqlite_place
    with place.opened() as platform:
        documents, bundles = platform.world.documents, platform.world.bundles
        LocalTarget().apply(ServerSpec(MODEL, documents.folder(MODEL)))
        version = platform.version(f"{MODEL}@4")
        folder = bundles.path(version.digest)
        name = change(folder)
        route = Route(MODEL, 4, version.digest, str(folder))
        published = documents.publish(Routes(MODEL, 0, (route,)))
        with pytest.raises(ServerDidNotFollow) as refused:
            documents.wait_in_effect(MODEL, published.generation, 30)
        assert name in str(refused.value)
        assert answering(platform.endpoint(MODEL).server.url) == f"{MODEL}@2"
    differences = place.told("doctor", code=3)["differences"]
    assert any("told to serve something other" in d["what"] for d in differences)


def test_damaged_bytes_are_made_again_by_registering_their_run_again(sqlite_place: Place) -> None:
    place = sqlite_place
    with place.opened() as platform:
        live = platform.version(f"{MODEL}@2")
    flip(bundle(place, 2))
    assert "make" in place.told("doctor", code=3)["differences"][0]["repair"]
    place.done("register", MODEL, "--run", live.run_id)
    assert place.told("history", MODEL)[-1]["draft"]["kind"] == "restored"
    place.done("deploy", MODEL)
    assert_whole(place, PLACES, run_left=True)
