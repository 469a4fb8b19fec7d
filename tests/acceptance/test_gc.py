"""gc through the real command: it says what it would free, frees it, tells the ledger, and the way back works."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

from mlplatform.flows.lease import holding
from tests import documents
from tests.small_project import MODEL, PLACES, Place, assert_whole

PAGE = Path(__file__).parents[2] / "docs" / "operations.md"
REASON = ("--reason", "because")
EAGER = '\n[gc]\nkeep = "0s"\nkeep_versions = 0\n'
DEPLOYED = {**PLACES, 3: "production", 2: "STANDBY", 1: "RETIRED"}


def with_a_retired_version(place: Place) -> None:
    """Version 1 is out of service, and the policy keeps nothing longer than it must."""
    policy = place.folder / "policy.toml"
    policy.write_text(policy.read_text() + EAGER)
    place.done("promote", f"{MODEL}@3", "production", *REASON)


def folder(place: Place, number: int) -> Path:
    with place.opened() as platform:
        bundles = platform.world.bundles
        digest = platform.version(f"{MODEL}@{number}").digest
        return bundles.root / "bundles" / digest[:2] / digest


def bytes_of(place: Place) -> int:
    home = place.folder / ".mlplatform"
    files = [p for name in ("bundles", "evidence") for p in (home / name).rglob("*") if p.is_file()]
    return sum(p.stat().st_size for p in files)


def test_a_retired_version_is_freed_told_of_and_brought_back(sqlite_place: Place) -> None:
    place = sqlite_place
    with_a_retired_version(place)
    before = bytes_of(place)
    planned = place.told("gc", "--dry-run")
    assert [g["name"] for g in planned["garbage"] if g["versions"]] == [f"{MODEL}@1"]
    assert bytes_of(place) == before
    done = place.told("gc")
    assert done["size_bytes"] == planned["size_bytes"] == before - bytes_of(place) > 0
    assert set(done["kept"]) == {f"{MODEL}@{n}" for n in (2, 3, 4, 5)}
    assert not folder(place, 1).exists()
    assert place.told("gc")["garbage"] == []

    entry = next(e for e in place.told("history", MODEL) if e["draft"]["kind"] == "collected")
    assert entry["draft"]["version"] == 1 and entry["draft"]["actor"]["name"] == "ada"
    assert "collected" in place.done("show", f"{MODEL}@1")
    assert "digest" in place.done("diff", f"{MODEL}@1", f"{MODEL}@2")
    assert place.told("doctor")["differences"] == []

    said = place.done("rollback", MODEL, "--to", "1", *REASON, code=3)
    assert f"The bytes of {MODEL}@1 are gone: ada freed them" in said
    [hint] = [line for line in said.splitlines() if line.startswith("Bring them back: ")]
    place.done(*hint.partition("mlplatform ")[2].split())
    place.done("rollback", MODEL, "--to", "1", *REASON)
    assert_whole(place, {**DEPLOYED, 1: "production", 3: "ROLLED_BACK", 2: "STANDBY"}, run_left=True)


def test_the_page_says_what_the_commands_say(sqlite_place: Place) -> None:
    place = sqlite_place
    with_a_retired_version(place)
    section = PAGE.read_text().split("## Freeing space (gc)\n")[1].split("\n## ")[0]
    for step in (step for step in documents.steps(section) if step.command):
        _, said = place.run(*shlex.split(step.command)[1:])
        assert documents.same("\n".join(step.shown), said, place.folder), f"$ {step.command}\n{said}"


def test_the_default_policy_keeps_what_was_live_lately(sqlite_place: Place) -> None:
    sqlite_place.done("promote", f"{MODEL}@3", "production", *REASON)
    assert not [g for g in sqlite_place.told("gc")["garbage"] if g["versions"]]
    assert folder(sqlite_place, 1).exists()


def test_gc_waits_for_whoever_changes_the_model(sqlite_place: Place) -> None:
    place = sqlite_place
    with_a_retired_version(place)
    environment = {**os.environ, **place.environment, "PYTHONPATH": str(Path(__file__).parents[2])}
    with place.opened() as platform:
        with holding(platform.world.leases, f"change:{MODEL}", platform.owner, timedelta(minutes=1).seconds):
            command = [sys.executable, "-m", "mlplatform", "gc"]
            waiting = subprocess.Popen(
                command, cwd=place.folder, env=environment, stderr=subprocess.PIPE, text=True
            )
            assert waiting.stderr
            assert "waiting for" in waiting.stderr.readline()
            assert folder(place, 1).exists()
        assert waiting.wait(60) == 0
        waiting.stderr.close()
    assert not folder(place, 1).exists()
