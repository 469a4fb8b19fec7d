"""kill -9 at every step of every flow; whatever is done next finds the move done or undone, and nothing half-way."""

from __future__ import annotations

import re
import signal
from dataclasses import dataclass
from pathlib import Path

import pytest

import mlplatform
from tests.small_project import MODEL, PLACES, UNTIL, Place, assert_whole

REASON = ("--reason", "because")
REGISTER = ("register", MODEL, "--run", "FRESH")
COMPRESS = ("compress", f"{MODEL}@4", "--steps", "onnx")
APPROVE = ("approve", f"{MODEL}@4", "--for", "production", *REASON)
TO_STAGING = ("promote", f"{MODEL}@4", "staging", *REASON)
TO_PRODUCTION = ("promote", f"{MODEL}@3", "production", *REASON)
BROKEN_TO_STAGING = ("promote", f"{MODEL}@5", "staging", "--break-glass", *REASON)
BROKEN_TO_PRODUCTION = ("promote", f"{MODEL}@5", "production", "--break-glass", *REASON)
ROLLBACK = ("rollback", MODEL, *REASON)
MONITOR = ("monitor", MODEL, "--until", UNTIL)
LABEL = ("label", MODEL, "labels.csv")

REGISTERED = {**PLACES, 6: "CANDIDATE"}
PROMOTED = {**PLACES, 4: "staging", 3: "RETIRED"}
DEPLOYED = {**PLACES, 3: "production", 2: "STANDBY", 1: "RETIRED"}
ROLLED_BACK = {**PLACES, 1: "production", 2: "ROLLED_BACK"}


@dataclass(frozen=True)
class Case:
    command: tuple[str, ...]
    """What is killed."""
    places: dict[int, str]
    """Where the versions stand after the next command."""
    before: tuple[str, ...] = ()
    """A command that comes first."""
    serves: bool = False
    """Whether a server runs when all is over."""


CASES = {
    "register:intent": Case(REGISTER, PLACES),
    "register:downloaded": Case(REGISTER, PLACES),
    "register:frozen": Case(REGISTER, PLACES),
    "register:created": Case(REGISTER, PLACES),
    "register:committed": Case(REGISTER, REGISTERED),
    "compress:intent": Case(COMPRESS, PLACES),
    "compress:made": Case(COMPRESS, PLACES),
    "compress:frozen": Case(COMPRESS, PLACES),
    "evaluate:answered": Case(APPROVE, PLACES),
    "approve:judged": Case(APPROVE, PLACES),
    "promote:decided": Case(TO_STAGING, PLACES),
    "promote:committed": Case(TO_STAGING, PROMOTED),
    "project:before": Case(TO_STAGING, PROMOTED),
    "project:after": Case(TO_STAGING, PROMOTED),
    "deploy:opened": Case(TO_PRODUCTION, PLACES),
    "deploy:recorded": Case(TO_PRODUCTION, DEPLOYED, serves=True),
    "deploy:warm": Case(TO_PRODUCTION, DEPLOYED, serves=True),
    "deploy:shifted": Case(TO_PRODUCTION, DEPLOYED, serves=True),
    "deploy:committed": Case(TO_PRODUCTION, DEPLOYED, serves=True),
    "deploy:taken_back": Case(
        BROKEN_TO_PRODUCTION, {**PLACES, 5: "staging", 3: "RETIRED"}, BROKEN_TO_STAGING, serves=True
    ),
    "deploy:passed": Case(MONITOR, {**PLACES, 1: "RETIRED"}),
    "rollback:intent": Case(ROLLBACK, ROLLED_BACK, ("deploy", MODEL), serves=True),
    "rollback:shifted": Case(ROLLBACK, ROLLED_BACK, ("deploy", MODEL), serves=True),
    "rollback:committed": Case(ROLLBACK, ROLLED_BACK, ("deploy", MODEL), serves=True),
    "label:ingested": Case(LABEL, PLACES),
}
IN_A_CHAIN = {"monitor:decided", "retrain:started", "retrain:trained", "retrain:climbed"}
"""Killed one after the other in one retraining, because trainings take long."""


def failpoints() -> set[str]:
    """Every name in the code."""
    package = Path(mlplatform.__file__).parent
    return {
        n for file in package.rglob("*.py") for n in re.findall(r'failpoint\("([^"]+)"\)', file.read_text())
    }


def test_every_failpoint_in_the_code_has_a_case() -> None:
    assert failpoints() == CASES.keys() | IN_A_CHAIN


@pytest.mark.parametrize("name", CASES)
def test_the_next_command_finds_it_done_or_undone(name: str, place: Place) -> None:
    case = CASES[name]
    (place.folder / "labels.csv").write_text("id,label\n")
    if case.before:
        place.done(*case.before)
    kill(place, name, *case.command)
    place.done("reconcile", MODEL)
    assert_whole(place, case.places, run_left=case.serves)
    kinds = [entry["draft"]["kind"] for entry in place.told("history", MODEL)]
    assert "approved" not in kinds, "it died before it was recorded"


@pytest.mark.parametrize("name", ["register:created", "compress:made", "promote:committed", "deploy:shifted"])
def test_the_same_command_again_goes_through(name: str, place: Place) -> None:
    """Recovery needs no command of its own, and the lease of the dead process holds up nobody."""
    case = CASES[name]
    kill(place, name, *case.command)
    code, output = place.run(*words(place, case.command))
    done = {"register:created": REGISTERED, "compress:made": REGISTERED}.get(name, case.places)
    assert code == (0 if done is REGISTERED else 3), output
    if code:
        assert "it is there already" in output
        place.done("reconcile", MODEL)
    number = {6: 7} if name == "register:created" else {}  # MLflow does not give a number twice
    assert_whole(place, {number.get(v, v): p for v, p in done.items()}, run_left=case.serves)


def test_a_wish_to_retrain_survives_every_death_and_is_answered_once(place: Place) -> None:
    kill(place, "monitor:decided", *MONITOR)
    place.done("reconcile", MODEL)
    passed = {**PLACES, 1: "RETIRED"}
    assert_whole(place, passed)
    kill(place, "retrain:started", *MONITOR)
    place.done("reconcile", MODEL)
    assert_whole(place, passed)
    assert outcomes(place) == ["died"]
    kill(place, "retrain:trained", *MONITOR)
    assert outcomes(place) == ["died", "started"]
    kill(place, "retrain:climbed", "reconcile", MODEL)
    place.done("reconcile", MODEL)
    live = {1: "RETIRED", 2: "STANDBY", 3: "RETIRED", 4: "CANDIDATE", 5: "CANDIDATE", 6: "production"}
    assert_whole(place, live, run_left=True)
    place.done(*MONITOR)
    assert outcomes(place) == ["died", "went live"]


def kill(place: Place, failpoint: str, *command: str) -> None:
    code, output = place.run(*words(place, command), failpoint=failpoint)
    assert code == -signal.SIGKILL, f"{failpoint} was not reached: {code}\n{output}"


def words(place: Place, command: tuple[str, ...]) -> list[str]:
    return [place.fresh_run if word == "FRESH" else word for word in command]


def outcomes(place: Place) -> list[str]:
    with place.opened() as platform:
        return [r.outcome.split(":")[0] for r in platform.world.retrainings.history(MODEL)]
