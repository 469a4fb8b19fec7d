"""project, reconcile and leases on fakes: what the real stores cannot be brought to do on demand."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Any

import pytest

from mlplatform.domain.approval import Demand
from mlplatform.domain.freeze import Freeze
from mlplatform.domain.ladder import RETIRED, STANDBY, Change
from mlplatform.domain.ledger import Draft, Kind
from mlplatform.domain.policy import Policy, Reconcile
from mlplatform.domain.routes import Route, Routes
from mlplatform.errors import ChangedBytes, ForgottenModel, LeaseHeld, WorldError
from mlplatform.flows.deploy import serve_holder
from mlplatform.flows.lease import holding, is_held
from mlplatform.flows.project import project
from mlplatform.flows.reconcile import differences, reconcile, recover
from mlplatform.flows.register import register
from mlplatform.flows.rollback import rollback
from mlplatform.ports.state import Intent
from mlplatform.testing.fakes.state import FakeLeases
from tests.unit.flows.worlds import ADA, MODEL, Fakes, policy, staging

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
        def aliases_of(self, model: str) -> dict[str, int]:
            return {}

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
    assert two.ledger.verify(MODEL).holds


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


@pytest.mark.parametrize(
    ("demands", "why"),
    [
        ({"approvals": Demand(1)}, "staging wants approvals"),
        ({"freeze": (Freeze("* * * * *", "1h"),)}, "staging is frozen"),
    ],
)
def test_an_alias_is_no_way_around_approvals_and_freeze_windows(
    two: Fakes, demands: dict[str, Any], why: str
) -> None:
    two.version("run3")
    given = replace(staging(policy(), **demands), reconcile=RECORD)
    project(two.world, given)
    two.registry.aliases[MODEL]["staging"] = 3
    mended(two, given)
    assert two.places == {1: "production", 2: "staging", 3: "CANDIDATE"}
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
        left = mine.parent / f"{os.uname().nodename}-4194305-x"
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


# --- what is written over before anybody looked --------------------------------------------------------------------


def reasons(fakes: Fakes) -> list[str]:
    entries = fakes.ledger.entries(MODEL)
    return [e.draft.reason for e in entries if e.draft.kind is Kind.OUTSIDE_MOVE]


def test_a_move_by_hand_is_kept_in_the_ledger_before_another_command_writes_over_it(two: Fakes) -> None:
    two.version("run3")
    two.registry.aliases[MODEL]["production"] = 2
    project(two.world, policy())
    assert reasons(two) == ["alias production was moved to version 2 in MLflow by somebody; set back"]
    assert two.registry.outside(MODEL).aliases == {"production": 1, "staging": 2}
    assert mended_nothing(two)


def test_what_we_wrote_ourselves_is_no_move_by_hand(two: Fakes) -> None:
    third = two.version("run3")
    two.promote(policy(), third, "staging")
    rollback(two.world, policy(), "staging", ADA, "back")  # 2 again: MLflow was told of neither
    two.promote(policy(), two.version("run4"), "staging")
    project(two.world, policy())
    assert reasons(two) == []


def test_a_projection_that_died_half_way_is_no_move_by_hand(two: Fakes) -> None:
    two.promote(policy(), two.version("run3"), "staging")
    two.registry.aliases[MODEL]["staging"] = 3  # written, and then the process died
    assert told(two) == ["MLflow's alias, tags and cards lag behind the ledger"]
    project(two.world, policy())
    assert reasons(two) == []


def test_a_move_by_hand_gives_way_to_a_newer_promotion_even_where_moves_are_recorded(two: Fakes) -> None:
    given = replace(policy(), reconcile=RECORD)
    two.version("run3")
    two.registry.aliases[MODEL]["staging"] = 3
    two.promote(given, two.version("run4"), "staging")
    project(two.world, given)
    assert two.places[4] == "staging"
    [reason] = reasons(two)
    assert reason.endswith("set back, because staging was changed here meanwhile")


def test_a_move_by_hand_is_recorded_by_the_next_command_where_the_policy_says_so(two: Fakes) -> None:
    given = replace(policy(), reconcile=RECORD)
    two.version("run3")
    two.registry.aliases[MODEL]["staging"] = 3
    project(two.world, given)
    assert two.places == {1: "production", 2: "RETIRED", 3: "staging"}
    assert two.registry.outside(MODEL).aliases == {"production": 1, "staging": 3}


def test_a_deleted_version_takes_its_alias_along_and_that_is_one_thing_to_tell(two: Fakes) -> None:
    two.registry.delete(MODEL, 2)
    two.version("run3")
    project(two.world, policy())
    assert reasons(two) == []
    assert mended(two) == ["version 2 (staging) was deleted in MLflow"]


def mended_nothing(fakes: Fakes) -> bool:
    return reconcile(fakes.world, policy()) == []


# --- models, runs and cards -----------------------------------------------------------------------------------------


def test_a_deleted_model_is_made_again_with_its_numbers(two: Fakes) -> None:
    two.version("run3")
    two.registry.delete(MODEL, 2)
    mended(two)
    two.registry.forget(MODEL)
    with pytest.raises(ForgottenModel, match="no longer knows the registered model churn"):
        two.version("run5")
    assert mended(two) == ["the registered model churn was deleted in MLflow"]
    assert two.registry.outside(MODEL).versions == {1, 2, 3}
    assert two.registry.outside(MODEL).aliases == {"production": 1, "staging": 2}
    assert two.version("run4").number == 4


def test_a_renamed_model_gets_its_name_back(two: Fakes) -> None:
    two.registry.rename(MODEL, "other")
    assert mended(two) == ["the registered model churn was renamed to other in MLflow"]
    assert two.registry.outside(MODEL).aliases == {"production": 1, "staging": 2}


def test_a_renamed_model_is_noted_once_where_moves_are_recorded(two: Fakes) -> None:
    two.registry.rename(MODEL, "other")
    given = replace(policy(), reconcile=RECORD)
    assert mended(two, given) == ["the registered model churn was renamed to other in MLflow"]
    assert two.registry.outside(MODEL).renamed == "other"


def test_a_deleted_run_is_restored_and_a_lost_one_remembered(two: Fakes) -> None:
    two.runs.states.update(run1="deleted", run2="gone")
    assert mended(two) == [
        "run run1 of version 1 (production) was deleted in MLflow",
        "run run2 of version 2 (staging) was deleted in MLflow",
    ]
    assert two.runs.states == {"run2": "gone"}


def test_a_deleted_run_is_left_where_moves_are_recorded(two: Fakes) -> None:
    two.runs.states.update(run1="deleted")
    mended(two, replace(policy(), reconcile=RECORD))
    assert two.runs.states == {"run1": "deleted"}


def test_an_edited_card_is_written_again(two: Fakes) -> None:
    two.registry.edited[MODEL] = {1}
    assert mended(two) == ["the card or our tags of version 1 were edited in MLflow"]
    assert two.registry.outside(MODEL).edited == frozenset()


def test_what_mlflow_made_after_the_registration_was_given_up_is_taken_back(two: Fakes) -> None:
    assert two.registry.create(MODEL, "slow", "register:churn:slow") == 3
    two.registry.keys[MODEL][4] = two.registry.keys[MODEL][1]  # a copy that somebody made
    assert mended(two) == ["version 3 in MLflow was left by a registration that was given up"]
    assert two.registry.outside(MODEL).versions == {1, 2, 4}


def test_a_version_kept_warm_in_vain_is_let_go(fakes: Fakes) -> None:
    """Whoever retired it died before the server was told."""
    given = policy()
    for run in ("run1", "run2"):
        fakes.live(given, run)
    out = (Change(1, STANDBY, RETIRED),)
    fakes.world.ledger.append(Draft(MODEL, Kind.RETIRED, 1, ADA, "not needed", out))
    project(fakes.world, given)
    assert mended(fakes, given) == ["endpoint churn keeps version 1 warm, which is out of service"]
    assert (fakes.served, fakes.warm()) == ([2], [])


def test_a_server_that_was_left_behind_when_its_project_was_moved_is_started_here(two: Fakes) -> None:
    folder = two.documents.folder("churn")
    two.target._states[folder] = replace(two.target.status(folder), left_at="/old/place/churn")
    [found] = [d for d in differences(two.world, policy()) if "left behind" in d.what]
    assert found.what.endswith("it hears nothing any more, and what it captures goes to /old/place/churn")
    assert "mlplatform deploy churn --stage production" in found.repair
    assert found.mend is not None
    found.mend()
    assert two.said[-1] == f"{found.what}; it is started again here"
    two.said.clear()
    serve_holder(two.world, policy(), "production")  # as a rollback does, which starts no server
    assert f"{found.what}; it is started again here" in two.said


def test_a_server_that_rejects_what_it_was_told_is_told(two: Fakes) -> None:
    routes = two.documents.routes("churn")
    assert routes is not None
    [worker] = two.documents.workers("churn")
    rejected = replace(
        worker, generation=0, rejected=routes.generation, error="churn@1 model.onnx has changed"
    )
    two.documents.report("churn", rejected)
    [what] = told(two)
    assert "does not serve what it was told: churn@1 model.onnx has changed" in what
    assert mended(two) == [what]


def test_changed_bytes_of_the_way_back_are_told_before_they_are_needed(two: Fakes) -> None:
    two.promote(policy(), two.version("run3"), "staging")
    two.spoil(two.ledger.versions(MODEL)[1])
    assert two.places[2] == "RETIRED"
    project(two.world, policy())
    [what] = told(two)
    assert what.startswith("churn@2 (RETIRED): The bytes of bundle")


@pytest.mark.parametrize("name", ["holdout.parquet", "reference.parquet", "trained_on.npy"])
def test_changed_evidence_of_what_holds_a_stage_is_told(two: Fakes, name: str) -> None:
    version = next(v for v in two.ledger.versions(MODEL) if two.places[v.number] == "production")
    file = two.bundles.evidence(version.digest) / name
    file.write_bytes(file.read_bytes() + b"x")
    [what] = told(two)
    assert f"{version.ref} (production)" in what and f"{name} was changed" in what
    register(two.world, MODEL, version.run_id, ADA)
    project(two.world, policy())
    assert told(two) == []
