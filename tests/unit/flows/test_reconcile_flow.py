"""project, reconcile and leases on fakes: what the real stores cannot be brought to do on demand."""

from __future__ import annotations

import os
from dataclasses import replace

import pytest

from mlplatform.domain.policy import Policy, Reconcile
from mlplatform.domain.routes import Route, Routes
from mlplatform.errors import ChangedBytes, LeaseHeld, WorldError
from mlplatform.flows.lease import holding, is_held
from mlplatform.flows.project import project
from mlplatform.flows.reconcile import differences, reconcile, recover
from mlplatform.flows.register import register
from mlplatform.ports.state import Intent
from mlplatform.testing.fakes.state import FakeLeases
from tests.unit.flows.worlds import ADA, MODEL, Fakes, policy

RECORD = Reconcile("record")
GONE = f"{os.uname().nodename}:4194305:x"
"""No process has a number above the kernel's limit."""


def told(fakes: Fakes, given: Policy | None = None) -> list[str]:
    return [d.what for d in differences(fakes.world, given or policy())]


def mended(fakes: Fakes, given: Policy | None = None) -> list[str]:
    """What a reconciliation found; a second one finds nothing."""
    given = given or policy()
    found = [d.what for d in reconcile(fakes.world, given)]
    assert reconcile(fakes.world, given) == []
    return found


@pytest.fixture
def two(fakes: Fakes) -> Fakes:
    """Version 1 in production, 2 in staging, MLflow told."""
    fakes.live(policy(), "run1")
    fakes.promote(policy(), fakes.version("run2"), "staging")
    project(fakes.world, policy())
    return fakes


# --- project --------------------------------------------------------------------------------------------------------


def test_aliases_and_cards_say_what_the_ledger_says(two: Fakes) -> None:
    assert two.registry.outside(MODEL).aliases == {"production": 1, "staging": 2}
    cards = two.registry.cards[MODEL]
    assert "accuracy" in cards[2].markdown
    assert cards[1].tags != cards[2].tags
    assert project(two.world, policy()) == 0, "nothing is due"


def test_what_was_lost_on_the_way_stays_due(fakes: Fakes) -> None:
    fakes.version("run1")

    class Down:
        def project(self, *arguments: object) -> None:
            raise WorldError(what="MLflow does not answer")

    with pytest.raises(WorldError):
        project(replace(fakes.world, registry=Down()), policy())  # type: ignore[arg-type]
    assert told(fakes) == ["MLflow's alias, tags and cards lag behind the ledger"]
    assert mended(fakes) == ["MLflow's alias, tags and cards lag behind the ledger"]
    assert told(fakes) == []


# --- aliases --------------------------------------------------------------------------------------------------------


def test_an_alias_of_a_stage_that_nobody_holds_is_removed(fakes: Fakes) -> None:
    fakes.version("run1")
    project(fakes.world, policy())
    fakes.registry.aliases[MODEL]["staging"] = 1
    assert mended(fakes) == ["MLflow's alias staging names version 1, the ledger says nothing"]
    assert fakes.registry.outside(MODEL).aliases == {}


def test_an_alias_of_somebody_elses_is_none_of_our_business(two: Fakes) -> None:
    two.registry.aliases[MODEL]["my-favourite"] = 1
    assert mended(two) == []
    assert two.registry.outside(MODEL).aliases["my-favourite"] == 1


def test_a_recorded_move_is_one_entry_with_its_changes(two: Fakes) -> None:
    given = replace(policy(), reconcile=RECORD)
    two.version("run3")
    project(two.world, given)
    two.registry.aliases[MODEL]["staging"] = 3
    mended(two, given)
    assert two.places == {1: "production", 2: "RETIRED", 3: "staging"}
    entry = two.ledger.entries(MODEL)[-1].draft
    assert (entry.kind.value, entry.version, entry.actor.name) == ("outside_move", 3, "mlflow")
    assert two.ledger.breaks(MODEL) == []


def test_a_recorded_deletion_takes_the_version_out_of_the_stage(two: Fakes) -> None:
    given = replace(policy(), reconcile=RECORD)
    del two.registry.aliases[MODEL]["staging"]
    mended(two, given)
    assert two.places == {1: "production", 2: "RETIRED"}


@pytest.mark.parametrize(
    ("number", "why"), [(1, "it is above it, in production"), (9, "version 9 is not registered here")]
)
def test_a_move_that_the_ladder_forbids_is_set_back_with_the_reason(
    two: Fakes, number: int, why: str
) -> None:
    given = replace(policy(), reconcile=RECORD)
    two.registry.keys[MODEL][9] = "made by hand"
    two.registry.aliases[MODEL]["staging"] = number
    mended(two, given)
    assert two.places == {1: "production", 2: "staging"}
    assert two.registry.outside(MODEL).aliases == {"production": 1, "staging": 2}
    assert f"set back, because {why}" in two.ledger.entries(MODEL)[-1].draft.reason


def test_a_deleted_version_is_remembered_once(two: Fakes) -> None:
    two.registry.delete(MODEL, 2)
    assert mended(two) == ["version 2 (staging) was deleted in MLflow"]
    assert two.places == {1: "production", 2: "staging"}
    two.bundles.verify(two.ledger.versions(MODEL)[1].digest)


# --- half-done ------------------------------------------------------------------------------------------------------


def test_a_registration_that_died_before_its_commit_is_undone(fakes: Fakes) -> None:
    class Dies:
        def register(self, *arguments: object) -> None:
            raise KeyboardInterrupt

        def __getattr__(self, name: str) -> object:
            return getattr(fakes.ledger, name)

    fakes.runs.add(fakes.candidate("run1"))
    with pytest.raises(KeyboardInterrupt):
        register(replace(fakes.world, ledger=Dies()), MODEL, "run1", ADA)  # type: ignore[arg-type]
    assert fakes.registry.outside(MODEL).versions == {1}
    assert recover(fakes.world, policy()) == 1
    assert fakes.registry.outside(MODEL).versions == frozenset()
    assert recover(fakes.world, policy()) == 0
    assert register(fakes.world, MODEL, "run1", ADA).number == 2, "MLflow gives no number twice"


def test_what_a_living_process_is_doing_is_not_half_done(fakes: Fakes) -> None:
    fakes.world.intents.open(Intent("register:x", "register", MODEL, {}, fakes.clock.now()))
    with holding(fakes.world.leases, f"change:{MODEL}", f"{os.uname().nodename}:{os.getpid()}:other"):
        assert told(fakes) == []
    assert told(fakes) == ["a registration stopped half-way (12:00:00)"]
    fakes.world.leases.acquire(f"change:{MODEL}", GONE, 600)
    assert told(fakes) == ["a registration stopped half-way (12:00:00)"]


def test_one_repair_that_fails_does_not_stop_the_others(two: Fakes) -> None:
    two.target.stop(two.documents.folder("churn"))
    other = two.ledger.versions(MODEL)[1]
    two.documents.publish(Routes("churn", 0, (Route(MODEL, 2, other.digest, "elsewhere"),)))
    two.spoil(two.ledger.versions(MODEL)[0])
    two.registry.aliases[MODEL]["staging"] = 1
    found = {d.what: d for d in reconcile(two.world, policy())}
    [repair] = [d.repair for what, d in found.items() if "told to serve" in what]
    assert repair.startswith("could not be repaired: The bytes of bundle")
    assert two.registry.outside(MODEL).aliases["staging"] == 2
    with pytest.raises(ChangedBytes):
        two.bundles.verify(two.ledger.versions(MODEL)[0].digest)


def test_a_folder_that_a_dead_process_staged_is_swept(fakes: Fakes) -> None:
    with fakes.bundles.stage() as mine:
        left = mine.parent / "4194305-x"
        left.mkdir()
        (left / "half").touch()
        recover(fakes.world, policy())
        assert not left.exists()
        assert mine.exists()


# --- leases ---------------------------------------------------------------------------------------------------------


def test_the_lease_of_a_dead_process_is_taken_over_at_once(fakes: Fakes) -> None:
    leases = FakeLeases(fakes.clock)
    before = leases.acquire("a", GONE, 600)
    assert not is_held(leases, "a", fakes.clock.now())
    with holding(leases, "a", "me") as lease:
        assert lease.fence > before.fence
    assert leases.holder("a") is None


def test_who_waits_says_for_whom_and_gives_up_naming_the_holder(fakes: Fakes) -> None:
    leases = FakeLeases(fakes.clock)
    leases.acquire("a", "elsewhere:1:x", 600)
    assert is_held(leases, "a", fakes.clock.now())
    said: list[str] = []
    with (
        pytest.raises(LeaseHeld, match="elsewhere:1:x"),
        holding(leases, "a", "me", patience=0.2, tell=said.append),
    ):
        raise AssertionError("held twice")
    assert said == ["waiting for elsewhere:1:x, who works on a"]
    fakes.clock.advance(601)
    assert not is_held(leases, "a", fakes.clock.now())
