"""People decide, by the real command: who may approve, when their word is void, and that no token is left lying."""

from __future__ import annotations

import json
import re
import shlex
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from mlplatform.domain.token import compose
from mlplatform.errors import RefusedToken
from mlplatform.testing.clock import FixedClock
from mlplatform.tracking.client import Mlflow
from mlplatform.wiring import SystemClock
from tests import documents
from tests.small_project import MODEL, POLICY, Place

PAGE = Path(__file__).parents[2] / "docs" / "operations.md"
FOURTH, WHY = f"{MODEL}@4", ("--reason", "looked at it")
GATES = """[stages.staging]
auto  = true
gates = [{ use = "metric", name = "accuracy", at_least = 0.6, min_n = 30 }]
"""
TWO_OF_RISK = 'count = 2, roles = ["risk"]'


def demand(place: Place, approvals: str, min_n: int = 30) -> None:
    """Give staging this demand."""
    assert GATES in POLICY
    wanted = f"{GATES.replace('auto  = true', '').replace('min_n = 30', f'min_n = {min_n}')}"
    text = POLICY.replace(GATES, f"{wanted}approvals = {{ {approvals} }}\n")
    (place.folder / "policy.toml").write_text(text)


def acting(place: Place, token: str) -> Place:
    """The same place for somebody with a token."""
    return replace(place, environment={**place.environment, "MLPLATFORM_TOKEN": token})


class People:
    """An admin, and whom the admin made."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self.texts = {"boss": place.told("token", "add", "boss", "--role", "admin")["text"]}

    @property
    def boss(self) -> Place:
        return acting(self.place, self.texts["boss"])

    def add(self, name: str, *roles: str) -> Place:
        words = [word for role in roles for word in ("--role", role)]
        self.texts[name] = self.boss.told("token", "add", name, *words)["text"]
        return acting(self.place, self.texts[name])

    def id_of(self, name: str) -> str:
        return self.texts[name].split("_")[1]


def approve(place: Place, code: int = 0) -> str:
    return place.done("approve", FOURTH, "--for", "staging", *WHY, code=code)


def promote(place: Place, code: int) -> str:
    return place.done("promote", FOURTH, "staging", *WHY, code=code)


def kinds(place: Place) -> list[str]:
    return [entry["draft"]["kind"] for entry in place.told("history", MODEL)]


# --- who ------------------------------------------------------------------------------------------------------------


def test_two_people_of_the_right_role_and_no_author(sqlite_place: Place) -> None:
    demand(sqlite_place, TWO_OF_RISK)
    people = People(sqlite_place)
    eve, bob = people.add("eve", "risk"), people.add("bob", "risk", "dev")
    refused = {
        "the author may not approve": people.add("ada", "risk"),  # who registered it, as MLPLATFORM_ACTOR
        "none of the roles risk": people.add("dan", "dev"),
        "the approver is not verified": sqlite_place,
    }
    for why, somebody in refused.items():
        assert why in approve(somebody, code=3)
    assert "approved" not in kinds(sqlite_place)
    assert "1 of 2" in approve(eve)
    assert "1 of 2" in approve(eve)
    assert "waiting (1 of 2 approvals)" in promote(bob, code=4)
    assert "2 of 2" in approve(bob)
    assert "eve (risk)" in promote(bob, code=0)
    last = sqlite_place.told("history", MODEL)[-1]["draft"]
    assert (last["kind"], last["actor"]) == ("promoted", {"name": "bob", "verified": True})
    assert last["data"]["approvals"] == ["eve", "bob"]
    assert "approvals for staging 2 of 2" in sqlite_place.done("show", FOURTH)


def test_a_revoked_token_ends_with_the_next_command_and_its_open_approvals_with_it(
    sqlite_place: Place,
) -> None:
    demand(sqlite_place, "count = 1")
    people = People(sqlite_place)
    eve, mallory = people.add("eve"), people.add("mallory")
    approve(mallory)
    with mallory.opened() as running:
        assert running.actor.name == "mallory"
        people.boss.done("token", "revoke", people.id_of("mallory"))
        with pytest.raises(RefusedToken, match="it was revoked"):
            running.promote(FOURTH, "staging", "quickly")
    assert "it was revoked" in promote(mallory, code=3)
    assert "void: mallory" in promote(eve, code=4)
    approve(eve)
    promote(eve, code=0)


# --- tokens ---------------------------------------------------------------------------------------------------------


def test_a_token_that_does_not_hold_is_an_error_and_never_somebody_else(sqlite_place: Place) -> None:
    people = People(sqlite_place)
    good = people.texts["boss"]
    guessed = compose(people.id_of("boss"), "0" * 48)
    for text, code, told in (
        (good[:-1], 2, "is mistyped"),
        (good.replace("mlp_", "mlp-"), 2, "is mistyped"),
        (guessed, 3, "it was not issued here"),
    ):
        before = kinds(sqlite_place)
        for command in (("promote", FOURTH, "staging", *WHY), ("check", FOURTH, "staging")):
            said = acting(sqlite_place, text).done(*command, code=code)
            assert told in said
            assert text not in said
        assert kinds(sqlite_place) == before
    acting(sqlite_place, guessed).done("reconcile")  # under its own name: what keeps things whole goes on


def test_only_admins_add_and_revoke_once_there_is_a_token(sqlite_place: Place) -> None:
    assert "must be an admin's" in sqlite_place.done("token", "add", "ada", "--role", "risk", code=2)
    people = People(sqlite_place)
    ada = people.add("ada", "risk")
    for somebody in (ada, sqlite_place):
        somebody.done("token", "add", "mallory", "--role", "admin", code=3)
        somebody.done("token", "revoke", people.id_of("boss"), code=3)
    assert "would make" in people.boss.done("token", "add", "eve", "--expires", "90d", "--dry-run")
    listed = sqlite_place.told("token", "list")
    assert [(t["token"]["owner"], t["token"]["created_by"]) for t in listed] == [
        ("boss", "ada (unverified)"),
        ("ada", "boss"),
    ]
    assert "would be revoked" in people.boss.done("token", "revoke", people.id_of("ada"), "--dry-run")
    assert "revoked" in ada.done("token", "revoke", people.id_of("ada"))
    assert "by ada" in sqlite_place.done("token", "list")


def test_a_token_comes_from_a_file_that_nobody_else_can_read(sqlite_place: Place) -> None:
    people = People(sqlite_place)
    file = sqlite_place.folder / "boss.token"
    file.write_text(people.texts["boss"] + "\n")
    named = replace(
        sqlite_place, environment={**sqlite_place.environment, "MLPLATFORM_TOKEN_FILE": str(file)}
    )
    file.chmod(0o644)
    assert "chmod 600" in named.done("token", "add", "eve", code=2)
    file.chmod(0o600)
    assert named.told("token", "add", "eve")["token"]["created_by"] == "boss"
    assert str(file) in named.done("doctor")
    file.unlink()
    assert "cannot be read" in named.done("token", "add", "bob", code=2)


def test_no_secret_is_left_anywhere(sqlite_place: Place) -> None:
    demand(sqlite_place, "count = 1")
    people = People(sqlite_place)
    eve = people.add("eve")
    for command in (
        ("approve", FOURTH, "--for", "staging", *WHY),
        ("--traceback", "promote", FOURTH, "nowhere", *WHY),
        ("promote", FOURTH, "staging", *WHY, "--json"),
        ("token", "list", "--json"),
        ("doctor",),
    ):
        said = eve.run(*command)[1]
        assert not any(secret in said for secret in secrets_of(people))
    for path in sqlite_place.folder.rglob("*"):
        if path.is_file():
            assert not any(secret.encode() in path.read_bytes() for secret in secrets_of(people)), path
    (sqlite_place.folder / "train.py").write_text("import os\nprint(dict(os.environ))\nraise SystemExit(1)\n")
    eve.run("train", MODEL)
    log = next((sqlite_place.folder / ".mlplatform" / "work").glob("train-*.log")).read_text()
    assert "PATH" in log, "the training wrote its environment"
    assert "MLPLATFORM_TOKEN" not in log


def secrets_of(people: People) -> list[str]:
    return [text.split("_")[2] for text in people.texts.values()]


# --- void -----------------------------------------------------------------------------------------------------------


def test_an_approval_is_void_when_the_policy_changes_and_is_shown_so(sqlite_place: Place) -> None:
    demand(sqlite_place, "count = 1")
    eve = People(sqlite_place).add("eve")
    approve(eve)
    assert "would be done" in sqlite_place.done("check", FOURTH, "staging")
    demand(sqlite_place, "count = 1", min_n=31)
    for command, code in ((("check", FOURTH, "staging"), 4), (("show", FOURTH), 0)):
        assert "the policy changed since" in sqlite_place.done(*command, code=code)
    told = sqlite_place.told("show", FOURTH)["approvals"]["staging"]
    assert told["counting"] == []
    assert told["void"][0][1] == "the policy changed since"
    sqlite_place.done("reconcile")
    eve.done("approve", f"{MODEL}@4", "--for", "production", *WHY)  # anything: cards are written anew
    assert "the policy changed since" in card(sqlite_place, 4)


def card(place: Place, number: int) -> str:
    store = Mlflow(place.environment["MLPLATFORM_TRACKING_URI"])
    return str(store.call("get_model_version", MODEL, str(number)).description)


def test_an_approval_is_of_these_bytes_and_no_others(sqlite_place: Place) -> None:
    demand(sqlite_place, "count = 1")
    eve = People(sqlite_place).add("eve")
    approve(eve)
    sqlite_place.done("compress", FOURTH, "--steps", "onnx")
    assert "0 of 1 approval" in sqlite_place.done("promote", f"{MODEL}@6", "staging", *WHY, code=4)
    with sqlite_place.opened() as platform:
        bundle = platform.world.bundles.path(platform.version(FOURTH).digest)
    changed = next(
        path for path in sorted(bundle.rglob("*")) if path.is_file() and path.name != "manifest.json"
    )
    changed.chmod(0o644)
    changed.write_bytes(changed.read_bytes() + b" ")
    for somebody, command in ((eve, approve), (eve, promote)):
        assert "are not those that were registered" in command(somebody, code=3)


def test_an_approval_expires_and_so_does_a_token(sqlite_place: Place) -> None:
    demand(sqlite_place, 'count = 1, expires = "2d"')
    people = People(sqlite_place)
    people.texts["eve"] = people.boss.told("token", "add", "eve", "--expires", "3d")["text"]
    eve = acting(sqlite_place, people.texts["eve"])
    approve(eve)
    assert status_after(eve, days=1.9) == ("done", [])
    assert status_after(eve, days=2.1) == ("waiting", ["it expired after 2d"])
    with pytest.raises(RefusedToken, match="it expired"):
        status_after(eve, days=3.1)


def status_after(place: Place, days: float) -> tuple[str, list[str]]:
    """What a check says so many days from now."""
    with place.opened() as platform:
        platform._wiring.clock = FixedClock(SystemClock().now() + timedelta(days=days))  # type: ignore[assignment]
        outcome = platform.check(FOURTH, "staging")
    assert outcome.tally
    return outcome.status, [why for _, why in outcome.tally.void]


# --- what it settles, and the way out -------------------------------------------------------------------------------


def test_a_person_settles_what_the_gates_cannot_tell(sqlite_place: Place) -> None:
    demand(sqlite_place, "count = 0", min_n=100_000)
    eve = People(sqlite_place).add("eve")
    assert "1 approval would settle it" in promote(eve, code=4)
    assert "INCONCLUSIVE" in approve(eve)
    assert "passed by approval of eve: metric INCONCLUSIVE" in promote(eve, code=0)
    assert "passed by approval of eve: metric INCONCLUSIVE" in sqlite_place.done("history", MODEL)


def test_nobody_approves_what_fails(sqlite_place: Place) -> None:
    demand(sqlite_place, "count = 0")
    policy = sqlite_place.folder / "policy.toml"
    policy.write_text(policy.read_text().replace("at_least = 0.6", "at_least = 0.999"))
    eve = People(sqlite_place).add("eve")
    assert "no approval settles a gate that fails" in approve(eve, code=3)
    assert "approved" not in kinds(sqlite_place)


def test_a_rejected_version_stays_out(sqlite_place: Place) -> None:
    assert "version 3: staging -> REJECTED" in sqlite_place.done("reject", f"{MODEL}@3", *WHY, "--dry-run")
    assert "version 3: staging -> REJECTED" in sqlite_place.done("reject", f"{MODEL}@3", *WHY)
    assert "stays out" in sqlite_place.done("promote", f"{MODEL}@3", "staging", *WHY, code=3)
    assert "mlplatform rollback" in sqlite_place.done("reject", f"{MODEL}@2", *WHY, code=3)
    last = sqlite_place.told("history", MODEL)[-1]["draft"]
    assert (last["kind"], last["actor"]["name"], last["reason"]) == ("rejected", "ada", "looked at it")
    with sqlite_place.opened() as platform:
        assert "staging" not in platform.world.registry.outside(MODEL).aliases


# --- tags in MLflow -------------------------------------------------------------------------------------------------


def tag(place: Place, key: str, value: str) -> None:
    """Somebody at work on MLflow's version page."""
    store = Mlflow(place.environment["MLPLATFORM_TRACKING_URI"])
    store.call("set_model_version_tag", MODEL, "4", key, value)


def answered(place: Place, stage: str = "staging") -> str:
    store = Mlflow(place.environment["MLPLATFORM_TRACKING_URI"])
    tags: dict[str, str] = store.call("get_model_version", MODEL, "4").tags
    return tags.get(f"mlplatform.approval.{stage}", "")


def test_a_tag_in_mlflow_counts_once_where_the_policy_lets_it(sqlite_place: Place) -> None:
    demand(sqlite_place, "count = 2, unverified = true")
    tag(sqlite_place, "mlplatform.approve.staging", "fine by me")
    assert "1 of 2 approvals" in promote(sqlite_place, code=4)
    assert answered(sqlite_place) == "counted: 1 of 2 approvals"
    tag(sqlite_place, "mlplatform.approve.staging", "fine by me, really")
    assert "1 of 2 approvals" in promote(sqlite_place, code=4)
    grace = replace(sqlite_place, environment={**sqlite_place.environment, "MLPLATFORM_ACTOR": "grace"})
    approve(grace)
    promote(sqlite_place, code=0)
    given = [
        e["draft"]["actor"] for e in sqlite_place.told("history", MODEL) if e["draft"]["kind"] == "approved"
    ]
    assert [g["name"] for g in given] == ["mlflow", "mlflow", "grace"]
    assert not any(g["verified"] for g in given)


def test_a_tag_is_answered_by_reconcile_where_it_does_not_count(sqlite_place: Place) -> None:
    demand(sqlite_place, "count = 1")
    tag(sqlite_place, "mlplatform.approve.staging", "fine by me")
    tag(sqlite_place, "mlplatform.approve.prodution", "and here")
    assert "approves version 4 for staging" in sqlite_place.done("doctor", code=3)
    for _ in range(2):
        sqlite_place.done("reconcile")
    assert kinds(sqlite_place).count("approved") == 1
    assert answered(sqlite_place) == "void: the approver is not verified"
    assert "Did you mean 'production'?" in answered(sqlite_place, "prodution")
    sqlite_place.done("doctor")
    promote(sqlite_place, code=4)


# --- the page -------------------------------------------------------------------------------------------------------


def test_the_page_works_and_prints_what_it_shows(sqlite_place: Place) -> None:
    """Every command of its section. If it prints something else now and this is right: copy it from the failure."""
    demand(sqlite_place, TWO_OF_RISK)
    section = PAGE.read_text().split("## Approvals and tokens\n")[1].split("\n## ")[0]
    wrong, codes, place = [], [], sqlite_place
    for step in documents.steps(section):
        if exported := re.fullmatch(r"export (\w+)=(\S+)", step.command):
            place = replace(place, environment={**place.environment, exported[1]: exported[2]})
            continue
        code, said = place.run(*shlex.split(step.command)[1:])
        codes.append(code)
        if not documents.same("\n".join(step.shown), said, place.folder):
            wrong.append(f"$ {step.command}\n{said}")
    assert not wrong, "\n".join(wrong)
    assert sorted(set(codes)) == [0, 4], "a check that waits, and all the rest done"


def test_what_approve_says_as_json_is_one_document(sqlite_place: Place) -> None:
    demand(sqlite_place, "count = 1")
    eve = People(sqlite_place).add("eve")
    planned = eve.told("approve", FOURTH, "--for", "staging", *WHY, "--dry-run")
    assert (planned["status"], planned["dry_run"], planned["entry"]) == ("done", True, None)
    assert "approved" not in kinds(sqlite_place)
    made = eve.told("approve", FOURTH, "--for", "staging", *WHY)
    assert made["entry"]["draft"]["data"]["approval"]["token"] == planned["tally"]["counting"][0]["token"]
    code, said = sqlite_place.run("approve", FOURTH, "--for", "staging", *WHY, "--json")
    assert (code, json.loads(said)["error"]) == (3, "refused")
