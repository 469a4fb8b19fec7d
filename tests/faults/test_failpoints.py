"""kill -9 at every step of every flow; whatever is done next finds the move done or undone, and nothing half-way.

The next command is `reconcile` on SQLite and `gc` on PostgreSQL: any command that changes something settles what a
dead one left. What must hold then is `tests.small_project.assert_whole`.
"""

from __future__ import annotations

import json
import re
import signal
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

import mlplatform
from mlplatform.domain.ledger import Kind
from mlplatform.tracking.client import Mlflow
from tests.small_project import MODEL, PLACES, UNTIL, Place, assert_whole

REASON = ("--reason", "because")
REGISTER = ("register", MODEL, "--run", "FRESH")
COMPRESS = ("compress", f"{MODEL}@4", "--steps", "onnx")
APPROVE = ("approve", f"{MODEL}@4", "--for", "production", *REASON)
REJECT = ("reject", f"{MODEL}@4", *REASON)
TO_STAGING = ("promote", f"{MODEL}@4", "staging", *REASON)
TO_PRODUCTION = ("promote", f"{MODEL}@3", "production", *REASON)
BROKEN_TO_STAGING = ("promote", f"{MODEL}@5", "staging", "--break-glass", *REASON)
BROKEN_TO_PRODUCTION = ("promote", f"{MODEL}@5", "production", "--break-glass", *REASON)
RETIRE = ("retire", f"{MODEL}@1", *REASON)
ROLLBACK = ("rollback", MODEL, *REASON)
CHOOSE = ("deploy", MODEL, "--target", "local")
MONITOR = ("monitor", MODEL, "--until", UNTIL)
LABEL = ("label", MODEL, "labels.csv")
CORRECT = ("label", MODEL, "corrected.csv", "--replace")
RECONCILE = ("reconcile", MODEL)
GC = ("gc",)
KEEP_NOTHING = '\n[gc]\nkeep = "0s"\nkeep_versions = 0\n'
STEPS = """
[stages.production.rollout]
steps = ["10%:1h", "100%"]
judge = [{ use = "error_rate", at_most = 0.01 }]
"""
RECORD = '\n[reconcile]\noutside_moves = "record"\n'

REGISTERED = {**PLACES, 6: "CANDIDATE"}
PROMOTED = {**PLACES, 4: "staging", 3: "RETIRED"}
DEPLOYED = {**PLACES, 3: "production", 2: "STANDBY", 1: "RETIRED"}
BESIDE = PLACES
"""Version 3 stays in staging while it gets a share of production's requests."""
ROLLED_BACK = {**PLACES, 1: "production", 2: "ROLLED_BACK"}
REJECTED = {**PLACES, 4: "REJECTED"}


@dataclass(frozen=True)
class Case:
    command: tuple[str, ...]
    """What is killed."""
    places: dict[int, str]
    """Where the versions stand after the next command."""
    before: tuple[str, ...] = ()
    """A command that comes first."""
    tag: tuple[int, str] | None = None
    """A version and a stage that somebody approved by a tag in MLflow."""
    moved: str = ""
    """An alias that somebody moved to version 4 in MLflow."""
    approvals: int = 0
    """How many stand in the ledger in the end."""
    serves: bool = False
    """Whether a server runs when all is over."""
    policy: str = ""
    """What is added to the policy."""
    share: float = 0.0
    """Of the requests that version 3 gets beside the one in production."""
    then: tuple[str, ...] = ()
    """The next command, where only this one settles it."""


# Where a failpoint has several cases, what follows the slash tells them apart.
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
    "evaluate:kept": Case(APPROVE, PLACES),
    "approve:judged": Case(APPROVE, PLACES),
    "approve:recorded": Case(APPROVE, PLACES, approvals=1),
    "approve:taken_up": Case(RECONCILE, PLACES, tag=(4, "production"), approvals=1),
    "reject:decided": Case(REJECT, PLACES),
    "reject:committed": Case(REJECT, REJECTED),
    "promote:decided": Case(TO_STAGING, PLACES),
    "promote:committed": Case(TO_STAGING, PROMOTED),
    "project:before": Case(TO_STAGING, PROMOTED),
    "project:after": Case(TO_STAGING, PROMOTED),
    "deploy:opened": Case(TO_PRODUCTION, PLACES),
    "deploy:recorded": Case(TO_PRODUCTION, DEPLOYED, serves=True),
    "deploy:warm": Case(TO_PRODUCTION, DEPLOYED, serves=True),
    "deploy:shifted": Case(TO_PRODUCTION, DEPLOYED, serves=True),
    "deploy:noted": Case(TO_PRODUCTION, DEPLOYED, serves=True),
    "deploy:warm/steps": Case(TO_PRODUCTION, BESIDE, serves=True, policy=STEPS, share=0.1),
    "deploy:shifted/steps": Case(TO_PRODUCTION, BESIDE, serves=True, policy=STEPS, share=0.1),
    "deploy:noted/steps": Case(TO_PRODUCTION, BESIDE, serves=True, policy=STEPS, share=0.1),
    "rollback:intent/steps": Case(ROLLBACK, BESIDE, TO_PRODUCTION, serves=True, policy=STEPS),
    "rollback:shifted/steps": Case(ROLLBACK, BESIDE, TO_PRODUCTION, serves=True, policy=STEPS),
    "rollback:committed/steps": Case(ROLLBACK, BESIDE, TO_PRODUCTION, serves=True, policy=STEPS),
    "deploy:committed": Case(TO_PRODUCTION, DEPLOYED, serves=True),
    "deploy:taken_back": Case(
        BROKEN_TO_PRODUCTION, {**PLACES, 5: "staging", 3: "RETIRED"}, BROKEN_TO_STAGING, serves=True
    ),
    "deploy:placed": Case(CHOOSE, PLACES, serves=True, then=RECONCILE),
    "deploy:moved": Case(CHOOSE, PLACES, serves=True, then=RECONCILE),
    "deploy:chosen": Case(CHOOSE, PLACES, serves=True, then=RECONCILE),
    "deploy:passed": Case(MONITOR, {**PLACES, 1: "RETIRED"}),
    "rollback:intent": Case(ROLLBACK, ROLLED_BACK, ("deploy", MODEL), serves=True),
    "rollback:shifted": Case(ROLLBACK, ROLLED_BACK, ("deploy", MODEL), serves=True),
    "rollback:committed": Case(ROLLBACK, ROLLED_BACK, ("deploy", MODEL), serves=True),
    "label:ingested": Case(LABEL, PLACES),
    "label:reopened": Case(CORRECT, PLACES),
    "label:replaced": Case(CORRECT, PLACES),
    "retire:decided": Case(RETIRE, PLACES),
    "retire:committed": Case(RETIRE, {**PLACES, 1: "RETIRED"}, then=RECONCILE),
    "reconcile:mended": Case(RECONCILE, PLACES, moved="production"),
    "reconcile:mended/recorded": Case(RECONCILE, PROMOTED, moved="staging", policy=RECORD),
    "gc:recorded": Case(GC, REJECTED, REJECT, policy=KEEP_NOTHING, then=GC),
    "gc:removed": Case(GC, REJECTED, REJECT, policy=KEEP_NOTHING, then=GC),
}
IN_A_CHAIN = {"monitor:decided", "retrain:started", "retrain:trained", "retrain:climbed"}
"""Killed one after the other in one retraining, because trainings take long."""
OF_TOKENS = {"token:handed_over", "token:added", "token:revoked"}
"""They belong to no model."""


def failpoints() -> set[str]:
    """Every name in the code."""
    package = Path(mlplatform.__file__).parent
    return {
        n for file in package.rglob("*.py") for n in re.findall(r'failpoint\("([^"]+)"\)', file.read_text())
    }


def test_every_failpoint_in_the_code_has_a_case() -> None:
    assert failpoints() == {failpoint(name) for name in CASES} | IN_A_CHAIN | OF_TOKENS


@pytest.mark.parametrize("name", CASES)
def test_the_next_command_finds_it_done_or_undone(name: str, place: Place) -> None:
    case = CASES[name]
    prepare(place, case)
    kill(place, failpoint(name), *case.command)
    on_sqlite = place.environment["MLPLATFORM_DATABASE_URL"].startswith("sqlite")
    place.done(*(case.then or (RECONCILE if on_sqlite else GC)))
    assert_whole(place, case.places, run_left=case.serves, share=case.share)
    with place.opened() as platform:
        kinds = [entry.draft.kind for entry in platform.world.ledger.entries(MODEL)]
        assert kinds.count(Kind.APPROVED) == case.approvals
        assert kinds.count(Kind.TARGET_CHOSEN) == (case.command == CHOOSE)
        if case.command == GC:
            assert kinds.count(Kind.COLLECTED) == 1
            assert platform.gc(dry_run=True).garbage == ()


@pytest.mark.parametrize("name", ["register:created", "compress:made", "promote:committed", "deploy:shifted"])
def test_the_same_command_again_goes_through(name: str, place: Place) -> None:
    """Recovery needs no command of its own, and the lease of the dead process holds up nobody."""
    case = CASES[name]
    kill(place, name, *case.command)
    code, output = place.run(*words(place, case.command))
    done = {"register:created": REGISTERED, "compress:made": REGISTERED}.get(name, case.places)
    assert code == (0 if done is REGISTERED else 3), output
    assert code == 0 or "it is there already" in output
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


def test_the_text_of_a_token_is_out_before_the_token_holds(place: Place) -> None:
    """The other way round a crash could make an admin whom nobody knows, and shut the door for good."""
    add = ("token", "add", "boss", "--role", "admin", "--into")
    kill(place, "token:handed_over", *add, "one")
    assert "it was not issued here" in acting(place, "one").done("token", "add", "eve", code=3)
    kill(place, "token:added", *add, "two")
    boss = acting(place, "two")
    [token] = [told["token"]["id"] for told in place.told("token", "list")]
    boss.done("token", "add", "deputy", "--role", "admin", "--into", "three")
    kill(boss, "token:revoked", "token", "revoke", token)
    assert "revoked" in boss.done("token", "add", "eve", code=3)
    acting(place, "three").done("token", "add", "eve")


def acting(place: Place, file: str) -> Place:
    """Commands under the token in this file."""
    token = {"MLPLATFORM_TOKEN_FILE": str(place.folder / file)}
    return replace(place, environment=place.environment | token)


def prepare(place: Place, case: Case) -> None:
    (place.folder / "labels.csv").write_text("id,label\n")
    ids, truth = json.loads((place.folder / "labels.json").read_text())
    corrected = "".join(f"{name},{1 - label}\n" for name, label in zip(ids, truth, strict=True))
    (place.folder / "corrected.csv").write_text(f"id,label\n{corrected}")
    with (place.folder / "policy.toml").open("a") as policy:
        policy.write(case.policy)
    if case.before:
        place.done(*case.before)
    store = Mlflow(place.environment["MLPLATFORM_TRACKING_URI"])
    if case.tag:
        number, stage = case.tag
        store.call("set_model_version_tag", MODEL, str(number), f"mlplatform.approve.{stage}", "seen")
    if case.moved:
        store.call("set_registered_model_alias", MODEL, case.moved, "4")


def failpoint(name: str) -> str:
    """The failpoint of a case."""
    return name.partition("/")[0]


def kill(place: Place, failpoint: str, *command: str) -> None:
    code, output = place.run(*words(place, command), failpoint=failpoint)
    assert code == -signal.SIGKILL, f"{failpoint} was not reached: {code}\n{output}"


def words(place: Place, command: tuple[str, ...]) -> list[str]:
    return [place.fresh_run if word == "FRESH" else word for word in command]


def outcomes(place: Place) -> list[str]:
    with place.opened() as platform:
        return [r.outcome.split(":")[0] for r in platform.world.retrainings.history(MODEL)]
