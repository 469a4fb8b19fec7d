"""evaluate: which rows are judged on, what is known of them, and what happens when somebody cannot answer."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import numpy as np

from mlplatform.config.policy_file import build
from mlplatform.domain.policy import Data, EvaluateOn, Use
from mlplatform.domain.verdict import Verdict
from mlplatform.flows.evaluate import judge
from mlplatform.flows.register import compress
from mlplatform.flows.rows import evaluation_rows
from tests.unit.flows.worlds import ACCURACY, ADA, INPUTS, Fakes, hours, policy, rows, staging


def test_rows_count_what_each_version_was_trained_on_and_what_is_left(fakes: Fakes) -> None:
    given, one, two = policy(), fakes.version("run1"), fakes.version("run2")
    for version, last in ((one, 30), (two, 50)):
        trained = fakes.bundles.evidence(version.digest) / "trained_on.npy"
        np.save(trained, np.unique(fakes.world.tables.row_digests(rows(0, last)[0], INPUTS)))
    chosen = evaluation_rows(fakes.world, given, one, two)
    assert (chosen.offered, chosen.seen_in_training, chosen.seen_by_incumbent) == (100, 30, 20)
    assert len(chosen.truth) == 50
    few = policy(data=Data("y", evaluate=EvaluateOn("holdout", max_rows=10)))
    chosen = evaluation_rows(fakes.world, few, one, two)
    assert len(chosen.truth) == 10
    assert chosen.source.endswith(", 50 seen in training left out"), "rows above max_rows were not seen"


def test_rows_know_the_time_of_their_newest(fakes: Fakes) -> None:
    given, version = policy(data=Data("y", time="seen_at")), fakes.version("run1")
    assert evaluation_rows(fakes.world, given, version, None).newest is None
    path = fakes.bundles.evidence(version.digest) / "holdout.parquet"
    table = fakes.world.tables.read(path)
    times = np.datetime64("2026-01-01", "us") + np.arange(100).astype("timedelta64[D]")
    fakes.world.tables.write(path, {**table, "seen_at": times})
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
