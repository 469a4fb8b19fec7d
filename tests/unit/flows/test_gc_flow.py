"""gc frees what nothing protects, never what something does, and the ledger tells who freed what."""

from __future__ import annotations

import os
import tempfile
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mlplatform.domain.approval import Demand
from mlplatform.domain.ladder import CANDIDATE, REJECTED, STANDBY, Change, is_stage
from mlplatform.domain.ledger import Draft, Kind
from mlplatform.domain.policy import Gc, Policy
from mlplatform.domain.routes import Route, Routes
from mlplatform.domain.version import Version
from mlplatform.errors import GoneBytes, MlplatformError, Refused, UnknownName
from mlplatform.flows.gc import Collection, collect, plan
from mlplatform.flows.register import compress, register, techniques
from mlplatform.flows.rollback import plan_rollback, rollback
from mlplatform.flows.rollout import advance
from mlplatform.testing.clock import START
from tests.unit.flows.worlds import ADA, MODEL, Fakes, policy

DAY = 86_400
BY_THE_STILL_CLOCK_NS = 7
"""Nanoseconds past the second: the mark of a time that a test has set."""
EAGER = Gc("1d", 0)


def eager(**changes: object) -> Policy:
    return policy(gc=EAGER, **changes)


def later(fakes: Fakes, days: float) -> None:
    written(fakes)
    fakes.clock.advance(days * DAY)


def written(fakes: Fakes) -> None:
    """What was written by the real clock was written now by the still one."""
    now_ns = int(fakes.clock.now().timestamp()) * 10**9 + BY_THE_STILL_CLOCK_NS
    for path in (fakes.folder / "home").rglob("*"):
        if path.lstat().st_mtime_ns % 10**9 != BY_THE_STILL_CLOCK_NS:
            os.utime(path, ns=(now_ns, now_ns))


def run(fakes: Fakes, rules: Policy | None = None) -> Collection:
    written(fakes)
    return collect(fakes.world, {MODEL: rules or eager()}, ADA)


def names(found: Collection) -> list[str]:
    return [g.name for g in found.garbage]


def is_there(fakes: Fakes, version: Version) -> bool:
    try:
        fakes.bundles.verify(version.digest)
    except UnknownName:
        return False
    return True


@pytest.fixture
def many(fakes: Fakes) -> Fakes:
    """1 retired, 2 kept warm, 3 live, 4 a candidate; all of it two days ago."""
    for name in ("run1", "run2", "run3"):
        fakes.live(eager(), name)
        later(fakes, 0.01)
    fakes.version("run4")
    assert fakes.places == {1: "RETIRED", 2: STANDBY, 3: "production", 4: CANDIDATE}
    later(fakes, 2)
    return fakes


def test_only_what_nobody_needs_is_freed(many: Fakes) -> None:
    versions = many.ledger.versions(MODEL)
    before = sum(s.size_bytes for s in many.bundles.stored())
    found = run(many)
    assert names(found) == ["churn@1"]
    assert [is_there(many, v) for v in versions] == [False, True, True, True]
    assert found.size_bytes == before - sum(s.size_bytes for s in many.bundles.stored()) > 0
    assert set(found.kept) == {"churn@2", "churn@3", "churn@4"}
    assert "kept warm" in found.kept["churn@2"]
    assert names(run(many)) == []


def test_looking_changes_nothing(many: Fakes) -> None:
    written(many)
    before, entries = many.bundles.stored(), many.ledger.entries(MODEL)
    found = plan(many.world, {MODEL: eager()})
    assert names(found) == ["churn@1"] and found.dry_run
    assert (many.bundles.stored(), many.ledger.entries(MODEL)) == (before, entries)


def test_the_ledger_tells_who_freed_what(many: Fakes) -> None:
    found = run(many)
    [entry] = [e for e in many.ledger.entries(MODEL) if e.draft.kind is Kind.COLLECTED]
    assert (entry.draft.version, entry.draft.actor.name) == (1, "ada")
    assert entry.draft.reason == "gc: RETIRED since 2026-01-05"
    assert entry.draft.data["size_bytes"] == found.size_bytes
    assert many.places[1] == "RETIRED"


def test_the_policy_keeps_the_newest_and_the_recent_ones(many: Fakes) -> None:
    assert names(run(many, policy(gc=Gc("1d", 1)))) == []
    assert names(run(many, policy(gc=Gc("30d", 0)))) == []
    assert names(run(many, policy())) == []


def test_a_version_without_a_policy_is_kept(many: Fakes) -> None:
    written(many)
    assert names(collect(many.world, {}, ADA)) == []


def test_the_way_back_is_kept_however_old(fakes: Fakes) -> None:
    rules = eager()
    fakes.live(rules, "run1")
    fakes.live(rules, "run2")
    rollout = fakes.world.deployments.active(MODEL)[-1]
    fakes.clock.advance(2 * DAY)
    advance(fakes.world, rules, rollout)  # probation is over
    assert fakes.places[1] == "RETIRED"
    later(fakes, 400)
    assert names(run(fakes)) == []
    assert plan_rollback(fakes.world, rules, "production")[0] == 1


def test_an_approval_keeps_bytes_until_it_expires(many: Fakes) -> None:
    rules = eager()
    staged = replace(rules.stage("staging"), approvals=Demand(1, expires="14d", author_may_approve=True))
    rules = replace(rules, stages={**rules.stages, "staging": staged})
    fourth = many.ledger.versions(MODEL)[3]
    approval = {"evaluation_id": "", "bundle_digest": fourth.digest}
    given = Draft(MODEL, Kind.APPROVED, 4, ADA, "good", stage="staging", data={"approval": approval})
    many.ledger.append(given)
    out = (Change(4, CANDIDATE, REJECTED),)
    many.ledger.append(Draft(MODEL, Kind.REJECTED, 4, ADA, "no", out))
    later(many, 5)
    assert "churn@4" not in names(run(many, rules))
    later(many, 10)
    assert "churn@4" in names(run(many, rules))


def test_bytes_that_two_versions_share_stay_for_the_one_that_needs_them(many: Fakes) -> None:
    first = many.ledger.versions(MODEL)[0]
    twin = replace(first, number=9, run_id="again")
    enter = (Change(9, None, CANDIDATE),)
    many.ledger.register(twin, Draft(MODEL, Kind.REGISTERED, 9, ADA, "equal bytes", enter))
    assert names(run(many)) == []
    assert is_there(many, first)


def test_bytes_that_a_server_runs_on_stay(many: Fakes) -> None:
    first = many.ledger.versions(MODEL)[0]
    many.documents.publish(Routes("serve-churn-1", 0, (Route(MODEL, 1, first.digest, "there"),)))
    assert names(run(many)) == []


def test_a_bundle_without_a_version_goes_after_an_hour(fakes: Fakes) -> None:
    version = fakes.version("run1")
    with fakes.bundles.stage() as staged:
        (staged / "model").mkdir()
        (staged / "model" / "model.onnx").write_text("half registered")
        left = fakes.bundles.freeze(staged, fakes.bundles.manifest(version.digest))
    (fakes.bundles.evidence(left.digest) / "holdout.parquet").write_bytes(b"rows")
    assert names(run(fakes)) == []
    later(fakes, 0.1)
    found = run(fakes)
    assert names(found) == [f"bundle {left.digest[:12]}"]
    assert fakes.bundles.digests() == [version.digest]
    assert {s.digest for s in fakes.bundles.stored()} == {version.digest}


def test_old_answers_go_and_those_that_an_entry_rests_on_stay(fakes: Fakes) -> None:
    live = fakes.live(eager(), "run1")
    evidence = fakes.bundles.evidence(live.digest)
    [cited] = evidence.glob("evaluation-*.npz")
    old = evidence / "evaluation-0123.npz"
    old.write_bytes(b"answers")
    later(fakes, 0.5)
    assert names(run(fakes)) == []
    later(fakes, 1)
    assert names(run(fakes)) == ["old answers of churn@1"]
    assert cited.exists() and not old.exists()
    assert (evidence / "holdout.parquet").exists()


def test_old_logs_of_trainings_go(fakes: Fakes) -> None:
    log = fakes.world.work / "train-1234.log"
    log.write_text("long ago")
    os.utime(log, (START.timestamp(), START.timestamp()))
    assert names(run(fakes)) == []
    later(fakes, 2)
    assert names(run(fakes)) == ["work/train-1234.log"]
    assert not log.exists()


# --- afterwards -----------------------------------------------------------------------------------------------------


def test_a_collected_version_is_refused_with_the_way_to_get_it_back(many: Fakes) -> None:
    run(many)
    with pytest.raises(GoneBytes, match=r"churn@1 are gone: ada freed them on 2026-01-07") as caught:
        rollback(many.world, eager(), "production", ADA, "back", to=1)
    assert caught.value.next_step == "Bring them back: mlplatform register churn --run run1"
    assert caught.value.exit_code == 3
    assert many.world.intents.left() == []


def test_bytes_of_a_version_that_was_rolled_back_may_be_gone_when_it_is_named(fakes: Fakes) -> None:
    rules = eager()
    for name in ("run1", "run2"):
        fakes.live(rules, name)
    rollback(fakes.world, rules, "production", ADA, "worse")
    later(fakes, 2)
    assert "churn@2" in names(run(fakes, rules))
    with pytest.raises(GoneBytes, match="ada freed them"):
        rollback(fakes.world, rules, "production", ADA, "it was not", to=2, named=True)
    register(fakes.world, MODEL, "run2", ADA)
    rollback(fakes.world, rules, "production", ADA, "it was not", to=2, named=True)
    assert fakes.places[2] == "production"


def test_registering_its_run_again_brings_the_bytes_back(many: Fakes) -> None:
    run(many)
    again = register(many.world, MODEL, "run1", ADA)
    assert again.number == 1 and is_there(many, again)
    assert many.ledger.entries(MODEL)[-1].draft.kind is Kind.RESTORED
    assert rollback(many.world, eager(), "production", ADA, "back", to=1).draft.version == 1
    assert register(many.world, MODEL, "run1", ADA).number == 1


def test_a_restored_version_can_be_collected_again(many: Fakes) -> None:
    run(many)
    register(many.world, MODEL, "run1", ADA)
    assert names(run(many)) == ["churn@1"]
    kinds = [e.draft.kind for e in many.ledger.entries(MODEL) if e.draft.version == 1][-3:]
    assert kinds == [Kind.COLLECTED, Kind.RESTORED, Kind.COLLECTED]


def test_a_run_that_gives_other_bytes_now_cannot_stand_in(many: Fakes) -> None:
    run(many)
    (many.runs.runs["run1"].model_folder / "model.onnx").write_text("something else")
    with pytest.raises(Refused, match="gives others now"):
        register(many.world, MODEL, "run1", ADA)
    assert not is_there(many, many.ledger.versions(MODEL)[0])


def test_a_collected_child_comes_back_by_compressing_its_parent_again(many: Fakes) -> None:
    steps = techniques(eager(), ["copying"])
    child = compress(many.world, many.ledger.versions(MODEL)[3], steps, ADA)
    many.bundles.remove(child.digest)
    with pytest.raises(GoneBytes) as caught:
        compress(many.world, child, steps, ADA)
    assert caught.value.next_step == "Bring them back: mlplatform compress churn@4 --steps copying"
    again = compress(many.world, many.ledger.versions(MODEL)[3], steps, ADA)
    assert again == child and is_there(many, child)


def test_what_a_killed_run_recorded_is_freed_by_the_next_and_told_once(many: Fakes) -> None:
    class Dies:
        def remove(self, *arguments: object) -> None:
            raise KeyboardInterrupt

        def __getattr__(self, name: str) -> object:
            return getattr(many.bundles, name)

    written(many)
    with pytest.raises(KeyboardInterrupt):
        collect(replace(many.world, bundles=Dies()), {MODEL: eager()}, ADA)  # type: ignore[arg-type]
    assert names(run(many)) == ["churn@1"]
    assert not is_there(many, many.ledger.versions(MODEL)[0])
    assert [e.draft.kind for e in many.ledger.entries(MODEL)].count(Kind.COLLECTED) == 1


# --- whatever happens -----------------------------------------------------------------------------------------------

STEPS = st.sampled_from(["new", "climb", "live", "release", "rollback", "gc", "wait", "twin", "settle"])


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(steps=st.lists(STEPS, min_size=4, max_size=25), keep=st.sampled_from(["0s", "1d"]))
def test_no_order_of_moves_frees_what_is_needed(steps: list[str], keep: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        fakes, rules = Fakes(Path(folder)), policy(gc=Gc(keep, 0))
        for count, step in enumerate(steps):
            ways_back = [way for stage in rules.ladder.stages if (way := way_back(fakes, rules, stage))]
            take(fakes, rules, step, count)
            if step != "gc":
                continue
            versions = {v.number: v for v in fakes.ledger.versions(MODEL)}
            needed = {n for n, p in fakes.places.items() if is_stage(p) or p in (STANDBY, CANDIDATE)}
            for rollout in fakes.world.deployments.active(MODEL):
                needed |= {rollout.version, *([rollout.previous] if rollout.previous else [])}
            for number in (*needed, *ways_back):
                assert is_there(fakes, versions[number]), (steps, number, fakes.places)


def way_back(fakes: Fakes, rules: Policy, stage: str) -> int | None:
    try:
        return plan_rollback(fakes.world, rules, stage)[0]
    except MlplatformError:
        return None


def take(fakes: Fakes, rules: Policy, step: str, count: int) -> None:
    """One step of somebody's; what the ladder forbids just then does not happen."""
    places = fakes.places
    newest = {place: number for number, place in sorted(places.items())}
    try:
        match step:
            case "new":
                fakes.version(f"run{count}")
            case "twin" if CANDIDATE in newest:
                copy = fakes.candidate(f"copy{count}")
                origin = fakes.runs.runs[fakes.ledger.versions(MODEL)[-1].run_id]
                (copy.model_folder / "model.onnx").write_bytes(
                    (origin.model_folder / "model.onnx").read_bytes()
                )
                fakes.runs.add(copy)
                fakes.teach(register(fakes.world, MODEL, copy.run_id, ADA), 1.0)
            case "climb" if CANDIDATE in newest:
                fakes.promote(rules, fakes.ledger.versions(MODEL)[newest[CANDIDATE] - 1], "staging")
            case "live" if "staging" in newest:
                fakes.promote(rules, fakes.ledger.versions(MODEL)[newest["staging"] - 1], "production")
            case "release":
                fakes.live(rules, f"run{count}")
            case "rollback":
                rollback(fakes.world, rules, "production", ADA, "because")
            case "gc":
                run(fakes, rules)
            case "settle":
                for rollout in fakes.world.deployments.active(MODEL):
                    advance(fakes.world, rules, rollout)
            case "wait":
                later(fakes, 1.5)
    except MlplatformError:
        return


def test_a_hundred_days_change_nothing_for_what_stands_in_a_stage(many: Fakes) -> None:
    for _ in range(3):
        many.clock.advance(timedelta(days=100).total_seconds())
        run(many)
    assert [is_there(many, v) for v in many.ledger.versions(MODEL)] == [False, True, True, True]


def test_nothing_is_freed_while_a_chain_does_not_hold(fakes: Fakes) -> None:
    given = eager()
    for name in ("run1", "run2", "run3"):
        fakes.promote(given, fakes.version(name), "staging")
    later(fakes, 3)
    assert names(plan(fakes.world, {MODEL: given})) == ["churn@1"]
    chain = fakes.ledger._chains[MODEL].entries
    chain[0], chain[1] = chain[1], chain[0]
    with pytest.raises(Refused, match="nothing is freed while the ledger does not hold"):
        run(fakes, given)
