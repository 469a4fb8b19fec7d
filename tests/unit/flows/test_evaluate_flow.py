"""evaluate: which rows are judged on, what is known of them, and what happens when somebody cannot answer."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from mlplatform.config.policy_file import build
from mlplatform.domain.bundle import Column
from mlplatform.domain.policy import Data, EvaluateOn
from mlplatform.domain.use import Use
from mlplatform.domain.verdict import Verdict
from mlplatform.domain.version import Version
from mlplatform.errors import ChangedBytes
from mlplatform.flows.evaluate import judge
from mlplatform.flows.monitor import reference_of
from mlplatform.flows.register import EVIDENCE, compress, register
from mlplatform.flows.rows import evaluation_rows
from mlplatform.flows.same_rows import answered
from mlplatform.flows.sound import demand_evidence
from tests.unit.flows.worlds import ACCURACY, ADA, INPUTS, MODEL, Fakes, hours, policy, staging


def test_rows_count_what_each_version_was_trained_on_and_what_is_left(fakes: Fakes) -> None:
    one, two = fakes.version("run1", trained=(0, 30)), fakes.version("run2", trained=(0, 50))
    given = policy()
    chosen = evaluation_rows(fakes.world, given, one, two)
    assert (chosen.offered, chosen.seen_in_training, chosen.seen_by_incumbent) == (100, 30, 20)
    assert len(chosen.truth) == 50
    few = policy(data=Data("y", evaluate=EvaluateOn("holdout", max_rows=10)))
    chosen = evaluation_rows(fakes.world, few, one, two)
    assert len(chosen.truth) == 10
    assert chosen.source.endswith(", 50 seen in training left out"), "rows above max_rows were not seen"


def test_rows_without_a_value_that_was_too_large_to_capture_are_left_out(fakes: Fakes) -> None:
    logged = fakes.candidate("run1")
    tables, inputs = fakes.world.tables, (*INPUTS, Column("file", "binary"))
    for place in (logged.sample, logged.holdout, logged.reference):
        table = tables.read(place)
        files = np.array([b"a file", *[b"another"] * (len(table["x"]) - 1)], object)
        if place == logged.holdout:
            files[[3, 4]] = None
        tables.write(place, {**table, "file": files})
    np.save(logged.trained_on, np.empty(0, np.uint64))
    fakes.runs.add(replace(logged, inputs=inputs))
    version = register(fakes.world, MODEL, "run1", ADA)
    chosen = evaluation_rows(fakes.world, policy(), version, None)
    assert chosen.source.endswith(", 2 with values too large to capture left out")
    assert (chosen.offered, len(chosen.truth)) == (100, 98)
    assert None not in chosen.columns["file"].tolist()


def test_rows_know_the_time_of_their_newest(fakes: Fakes) -> None:
    given, version = policy(data=Data("y", time="seen_at")), fakes.version("run1")
    assert evaluation_rows(fakes.world, given, version, None).newest is None
    logged = fakes.candidate("run2")
    table = fakes.world.tables.read(logged.holdout)
    times = np.datetime64("2026-01-01", "us") + np.arange(100).astype("timedelta64[D]")
    fakes.world.tables.write(logged.holdout, {**table, "seen_at": times})
    fakes.runs.add(logged)
    version = register(fakes.world, MODEL, "run2", ADA)
    chosen = evaluation_rows(fakes.world, given, version, None)
    assert chosen.newest == datetime(2026, 4, 10, tzinfo=UTC)
    assert "seen_at" in chosen.columns
    live = policy(data=Data("y", evaluate=EvaluateOn("labelled_window", min_rows=20)))
    fakes.answered(version, 200, 240, hour=0)
    fakes.observations.ingest("churn")
    assert evaluation_rows(fakes.world, live, version, None).newest == hours(39 / 60)


def test_an_incumbent_that_cannot_answer_stops_only_what_is_compared_with_it(fakes: Fakes) -> None:
    given = staging(policy(), gates=(Use("signature"), ACCURACY))
    one = fakes.version("run1")
    fakes.promote(given, one, "staging")
    fakes.evaluator.models.clear()
    for kept in fakes.bundles.evidence(one.digest).glob("evaluation-*"):
        kept.unlink()
    assert fakes.promote(given, fakes.version("run2"), "staging", dry_run=True).status == "done"
    compared = staging(given, gates=(Use("no_regression", {"name": "accuracy"}), ACCURACY))
    outcome = fakes.promote(compared, fakes.version("run3"), "staging", dry_run=True)
    assert [f.verdict for f in outcome.findings] == [Verdict.ERROR, Verdict.PASS]
    assert "churn@1 could not be measured" in outcome.findings[0].because


def test_a_compressed_version_is_as_old_as_the_one_it_was_made_of(fakes: Fakes) -> None:
    given = staging(policy(), gates=(Use("freshness", {"max_age": "1d"}),))
    parent = fakes.version("run1")
    fakes.clock.advance(2 * 86400)
    child = compress(fakes.world, parent, (Use("onnx"),), ADA)
    fakes.teach(child, 1.0)
    outcome = fakes.promote(given, child, "staging", dry_run=True)
    assert outcome.status == "refused" and "churn@2 is 2d old" in outcome.because
    assert fakes.promote(given, fakes.version("run2"), "staging", dry_run=True).status == "done"


def test_a_gate_that_fails_itself_is_an_error_and_the_others_still_judge(fakes: Fakes) -> None:
    class Broken:
        needs = frozenset[str]()

        def judge(self, subject: object) -> None:
            raise RuntimeError("no such\nthing")

    world = replace(fakes.world, build=lambda kind, use: Broken() if use.use == "mine" else build(kind, use))
    given = staging(policy(), gates=(Use("mine"), ACCURACY))
    judgement = judge(world, given, "staging", fakes.version("run1"), None)
    assert [f.verdict for f in judgement.findings] == [Verdict.ERROR, Verdict.PASS]
    assert judgement.findings[0].because == "the gate itself failed: RuntimeError: no such thing"


def forge(fakes: Fakes, version: Version) -> None:
    """Make the kept answers of a version those that are right."""
    [file] = fakes.bundles.evidence(version.digest).glob("evaluation-*.npz")
    with np.load(file) as kept:
        truth = kept["truth"]
    np.savez_compressed(file, labels=truth, truth=truth)


@pytest.mark.parametrize("how", ["forged", "damaged"])
def test_changed_answers_are_not_used_and_the_version_answers_again(fakes: Fakes, how: str) -> None:
    given, bad = policy(), fakes.version("run1", skill=0.6)
    before = judge(fakes.world, given, "staging", bad, None)
    assert [f.verdict for f in before.findings] == [Verdict.FAIL] and before.evaluation
    [file] = fakes.bundles.evidence(bad.digest).glob("evaluation-*.npz")
    forge(fakes, bad) if how == "forged" else file.write_text("junk")
    after = judge(fakes.world, given, "staging", bad, None)
    assert after.findings == before.findings and after.evaluation
    assert after.evaluation.id != before.evaluation.id
    assert any(file.name in line and "was changed" in line for line in fakes.said)
    fakes.evaluator.asked.clear()
    again = judge(fakes.world, given, "staging", bad, None)
    assert (again.evaluation, fakes.evaluator.asked) == (after.evaluation, [])


def test_changed_answers_are_compared_with_by_nobody(fakes: Fakes) -> None:
    live = fakes.live(policy(), "run1")
    kept = fakes.world.evaluations.latest(live.digest)
    assert answered(fakes.world, live, kept) and reference_of(fakes.world, live).answers
    [file] = fakes.bundles.evidence(live.digest).glob("evaluation-*.npz")
    file.write_bytes(file.read_bytes() + b"x")
    assert answered(fakes.world, live, kept) is None
    assert reference_of(fakes.world, live).answers is None


@pytest.mark.parametrize("changed", ["holdout.parquet", "trained_on.npy"])
@pytest.mark.parametrize("how", ["fewer", "missing"])
def test_changed_evidence_is_an_error_that_names_the_file(fakes: Fakes, changed: str, how: str) -> None:
    given, version = policy(), fakes.version("run1")
    judge(fakes.world, given, "staging", version, None)
    place = fakes.bundles.evidence(version.digest) / changed
    shorten(fakes, place) if how == "fewer" else place.unlink()
    judgement = judge(fakes.world, given, "staging", version, None)
    assert [f.verdict for f in judgement.findings] == [Verdict.ERROR]
    assert changed in judgement.findings[0].because


def test_a_child_is_not_made_with_changed_evidence_and_registering_again_restores_it(fakes: Fakes) -> None:
    parent = fakes.version("run1")
    child = compress(fakes.world, parent, (Use("onnx"),), ADA)
    recorded = [e.draft.data["evidence"] for e in fakes.ledger.entries(MODEL)]
    assert recorded[0] == recorded[1] and set(recorded[0]) == set(EVIDENCE)
    for version in (parent, child):
        shorten(fakes, fakes.bundles.evidence(version.digest) / "holdout.parquet")
    with pytest.raises(ChangedBytes, match=r"holdout\.parquet"):
        compress(fakes.world, parent, (Use("onnx"), Use("onnx")), ADA)
    assert register(fakes.world, MODEL, "run1", ADA) == parent
    assert compress(fakes.world, parent, (Use("onnx"),), ADA) == child
    assert fakes.kinds == ["registered", "registered", "restored", "restored"]
    for version in (parent, child):
        demand_evidence(fakes.world, version)


def test_versions_of_equal_bytes_share_the_evidence_of_the_last(fakes: Fakes) -> None:
    one = fakes.version("run1")
    logged = fakes.candidate("run1", fakes.folder / "again", trained=(2000, 2100))
    fakes.runs.add(replace(logged, run_id="run2"))
    two = register(fakes.world, MODEL, "run2", ADA)
    assert one.digest == two.digest
    for version in (one, two):
        demand_evidence(fakes.world, version)


def shorten(fakes: Fakes, place: Path) -> None:
    """Leave out rows."""
    if place.suffix == ".npy":
        np.save(place, np.load(place)[10:])
    else:
        fakes.world.tables.write(place, {n: v[10:] for n, v in fakes.world.tables.read(place).items()})
