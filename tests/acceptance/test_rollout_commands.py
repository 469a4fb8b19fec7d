"""A rollout by commands: opened, shown, paused for requests, gone on, taken back; and what a policy may not say."""

from __future__ import annotations

import json
from urllib.request import Request, urlopen

import pytest

from tests.small_project import MODEL, PLACES, Place

STEPS = """
[stages.production.rollout]
steps = ["20%:1s", "60%:1h", "100%"]
key   = "header:X-Customer"
judge = [{ use = "error_rate", at_most = 0.05, min_requests = 20 }]
"""
PROMOTE = ("promote", f"{MODEL}@3", "production", "--reason", "weekly")
ROLLBACK = ("rollback", MODEL, "--reason", "refunds doubled")


@pytest.fixture
def shop(sqlite_place: Place) -> Place:
    """Version 3 on its way into production, in its first step."""
    with (sqlite_place.folder / "policy.toml").open("a") as policy:
        policy.write(STEPS)
    output = sqlite_place.done(*PROMOTE)
    assert "churn@3 to production: rolling out (20 % until " in output
    assert "then 60 %)" in output
    return sqlite_place


def ask(shop: Place, requests: int) -> set[str]:
    """Which versions answer so many customers."""
    [state] = shop.told("endpoints")
    body = json.dumps(
        {"dataframe_split": {"columns": ["c0", "c1", "c2", "at"], "data": [[0.1, 0.2, 0.3, None]]}}
    )
    met = set()
    for number in range(requests):
        headers = {"Content-Type": "application/json", "X-Customer": str(number)}
        url = f"http://127.0.0.1:{state['server']['port']}/invocations"
        with urlopen(Request(url, body.encode(), headers), timeout=10) as answer:
            met.add(str(answer.headers["Mlplatform-Model"]))
    return met


def looked(shop: Place) -> str:
    """What is going on after another look."""
    shop.done("reconcile", MODEL)
    return shop.done("list")


def test_a_rollout_is_shown_wherever_one_looks(shop: Place) -> None:
    assert "3: 20 %, step 1 of 3" in shop.done("endpoints")
    assert "3 to production: rolling out, 20 %, step 1 of 3" in shop.done("list")
    [state] = shop.told("endpoints")
    assert state["baking"]["at"] == 0
    held = shop.told("history", MODEL, "--stage", "production")["held"]
    assert {(spell["version"], spell["share"]) for spell in held if spell["until"] is None} == {
        (2, 0.8),
        (3, 0.2),
    }


def test_it_waits_for_requests_then_goes_on_and_a_rollback_takes_it_back(shop: Place) -> None:
    while "20 % waits" not in (told := looked(shop)):  # the step bakes for a second
        assert "20 % until" in told, told
    assert "error_rate: 0 of 20 requests, 20 more to go" in told
    assert ask(shop, 300) == {"churn@2", "churn@3"}
    while "60 %, step 2 of 3" not in (told := looked(shop)):
        assert "20 %" in told, told
    assert "rollout failed" in shop.done(*ROLLBACK)
    assert ask(shop, 50) == {"churn@2"}
    with shop.opened() as platform:
        assert dict(platform.world.ledger.standings(MODEL).places) == PLACES
        assert platform.differences(MODEL) == []
        assert platform.verify().holds


def test_every_step_is_told_by_the_command_that_took_it(sqlite_place: Place) -> None:
    steps = STEPS.replace('"60%:1h"', '"60%:1s"').replace("min_requests = 20", "min_requests = 5")
    with (sqlite_place.folder / "policy.toml").open("a") as policy:
        policy.write(steps)
    sqlite_place.done(*PROMOTE)
    ask(sqlite_place, 100)
    while not (told := sqlite_place.told("reconcile", MODEL)):  # the step bakes for a second
        pass
    assert [(d["what"], d["repair"]) for d in told] == [
        ("a step of the rollout of churn@3 into production was due", "traffic shifted (60 % of churn)")
    ]
    ask(sqlite_place, 100)
    shifted = "churn@3 to production: traffic shifted (100 % of churn)"
    while shifted not in (said := sqlite_place.done("monitor", MODEL)):
        assert "churn@3 to production: 60 %" in said, said
    assert "churn@3 to production: promoted (weekly); version 2: production -> STANDBY, version 3: " in said
    steps_told = [step["draft"]["version"] for step in sqlite_place.told("monitor", MODEL)["steps"]]
    assert 3 not in steps_told  # each is told once


def test_a_second_promotion_meets_the_first(shop: Place) -> None:
    output = shop.done(*PROMOTE, code=5)
    assert "churn@3 is being rolled out into production (20 %, step 1 of 3)" in output
    assert "mlplatform rollback churn --stage production" in output
    assert "cannot be rejected" in shop.done("reject", f"{MODEL}@3", "--reason", "no", code=3)


def test_the_rollback_of_a_rollout_can_be_looked_at_first(shop: Place) -> None:
    assert "would bring back churn@2" in shop.done(*ROLLBACK, "--dry-run")
    assert "3: 20 %" in shop.done("endpoints")


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ('steps = ["5%:10m", "100%"]', "steps advance by themselves, and nobody judges them"),
        ('steps = ["5%", "100%"]\njudge = ["error_rate"]', "a step must last; write for example 5%:10m"),
        ('steps = ["5%:1m", "5%:1m", "100%"]\njudge = ["error_rate"]', "shares must grow"),
        ('steps = ["5%:1m", "100%"]\njudge = ["disagreement"]', 'add the step "shadow:10m"'),
        ('steps = ["5%:1m", "100%"]\njudge = ["eror_rate"]', "did you mean 'error_rate'"),
    ],
)
def test_a_policy_that_promises_what_nobody_checks_is_refused(
    sqlite_place: Place, written: str, said: str
) -> None:
    with (sqlite_place.folder / "policy.toml").open("a") as policy:
        policy.write(f"\n[stages.production.rollout]\n{written}\n")
    assert said in sqlite_place.done("policy", "check", code=2)


def test_a_misspelt_column_stops_what_would_put_it_to_use_and_is_told(sqlite_place: Place) -> None:
    columns = STEPS.replace("header:X-Customer", "c11") + '[capture]\ndrop_columns = ["att", "c0"]\n'
    with (sqlite_place.folder / "policy.toml").open("a") as policy:
        policy.write(columns)
    sqlite_place.done("policy", "check")
    dropped = "capture.drop_columns 'att' (did you mean 'at'?)"
    for command in (("check", f"{MODEL}@3", "production"), PROMOTE, (*PROMOTE, "--break-glass")):
        told = sqlite_place.done(*command, code=3)
        assert "stages.production.rollout.key 'c11' (did you mean 'c" in told and dropped in told
    for dry in ((), ("--dry-run",)):
        told = sqlite_place.done("deploy", MODEL, *dry, code=3)
        assert "1 column(s)" in told and dropped in told
    assert dropped in sqlite_place.done("doctor", code=3)
    with sqlite_place.opened() as platform:
        assert dict(platform.world.ledger.standings(MODEL).places) == PLACES
