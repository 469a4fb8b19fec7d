"""Durations, governor, rollout, watch, verdict, version references, policy, manifest, routes."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import timedelta

import pytest

from mlplatform.domain.bundle import Column, FileEntry, Manifest, Parameter, Task, differing_columns
from mlplatform.domain.duration import duration
from mlplatform.domain.endpoint import Endpoint
from mlplatform.domain.governor import Limits, Retraining, losses_in_a_row, may_retrain
from mlplatform.domain.ladder import Ladder
from mlplatform.domain.policy import Capture, EvaluateOn, Policy, Stage, Watch
from mlplatform.domain.rollout import Phase, ProbationFacts, Rollout, Step, next_in_probation
from mlplatform.domain.rollout_plan import Probation
from mlplatform.domain.routes import CaptureRule, Route, Routes, WorkerStatus
from mlplatform.domain.use import Use
from mlplatform.domain.verdict import Finding, Measurement, Verdict, worst
from mlplatform.domain.version import VersionRef
from mlplatform.domain.watch import Action, Signal, State, Window, decide, sustained
from mlplatform.errors import BadVersionRef, UnknownName
from mlplatform.testing.clock import START

DAY, HOUR = timedelta(days=1), timedelta(hours=1)


# --- durations ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["", "5", "-1h", "1 h", "1y", "h", "1e3s", "9" * 30 + "w", "999999999d"])
def test_what_is_no_duration_is_refused(text):
    with pytest.raises(ValueError):
        duration(text)


# --- governor -----------------------------------------------------------------------------------------------

NOW = START + 100 * DAY
LIMITS = Limits(cooldown="24h", per_week=3, stop_after_losses=3)


def past(*days_and_ends):
    return [Retraining(NOW - days * DAY, end) for days, end in days_and_ends]


def test_first_retraining_is_allowed():
    assert may_retrain([], LIMITS, NOW).allowed


def test_cooldown_counts_from_the_last_start_and_ends_on_time():
    history = past((0.5, True))
    assert "cooldown of 24h: 12h left" in may_retrain(history, LIMITS, NOW).because
    assert may_retrain(history, LIMITS, NOW + 12 * HOUR).allowed


def test_budget_counts_seven_days():
    history = past((6.9, True), (4, True), (2, True))
    assert "3 of 3" in may_retrain(history, LIMITS, NOW).because
    assert may_retrain(history, LIMITS, NOW + 3 * HOUR).allowed


def test_losses_in_a_row_stop_retraining_until_a_person_asks():
    history = past((40, True), (30, False), (20, False), (10, False))
    assert "last 3 challengers" in may_retrain(history, LIMITS, NOW).because
    assert may_retrain(history, LIMITS, NOW, forced=True).allowed
    assert may_retrain([*history[:-1], Retraining(NOW - 10 * DAY, True)], LIMITS, NOW).allowed


def test_undecided_challenger_ends_the_row_of_losses():
    assert losses_in_a_row(past((3, False), (2, False), (1, None))) == 0


@pytest.mark.parametrize("wrong", [{"cooldown": "x"}, {"per_week": 0}, {"stop_after_losses": 0}])
def test_nonsense_limits_are_refused(wrong):
    with pytest.raises(ValueError):
        Limits(**wrong)


# --- rollout ------------------------------------------------------------------------------------------------

ROLLOUT = Rollout("r", "m", 2, "p", "e", 1, Phase.PROBATION, START, "a", "", probation_since=START + HOUR)
PROBATION = Probation(lasts="2h", or_labels=100)


@pytest.mark.parametrize(
    ("facts", "hours", "step"),
    [
        (ProbationFacts(), 0, Step.WAIT),
        (ProbationFacts(labelled=99), 2.9, Step.WAIT),
        (ProbationFacts(labelled=100), 0, Step.CLOSE),
        (ProbationFacts(), 3, Step.CLOSE),
        (ProbationFacts(breach="worse"), 0, Step.TAKE_BACK),
        (ProbationFacts(labelled=1000, breach="worse"), 9, Step.TAKE_BACK),
    ],
)
def test_probation_ends_by_time_by_labels_or_by_a_breach(facts, hours, step):
    assert next_in_probation(ROLLOUT, PROBATION, facts, START + hours * HOUR).step is step


def test_phase_changes_without_a_reason_keep_the_old_one():
    failed = ROLLOUT.now_in(Phase.FAILED, "too slow")
    assert (failed.phase, failed.because) == (Phase.FAILED, "too slow")
    assert failed.now_in(Phase.DONE).because == "too slow"


# --- watch --------------------------------------------------------------------------------------------------


def window(hour, state=State.OK, version=1, retrain=True):
    signal = Signal("quality", state, f"reading {hour}", retrain)
    start = START + hour * HOUR
    return Window("m", "e", start, start + HOUR, version, 100, 50, (signal,))


def test_newest_window_decides():
    calm, alarm = window(1), window(2, State.ALARM)
    assert decide([alarm, calm], []).action is Action.KEEP
    assert decide([calm, alarm], []).action is Action.ALERT
    assert decide([calm, alarm], ["sustained"]).because == "sustained"
    assert decide([calm], ["sustained"]).action is Action.RETRAIN
    assert "not enough data: reading 3" in decide([window(3, State.UNKNOWN)], []).because


def test_sustained_alarms_ask_for_retraining_and_single_ones_do_not():
    alarms = [window(h, State.ALARM) for h in range(3)]
    assert "3 of the last 3" in sustained(alarms, 3, 5)
    assert sustained(alarms[:2], 3, 5) == ""
    assert "3 of the last 4" in sustained([window(9), *alarms], 3, 5)


def test_old_alarms_count_no_more_once_things_are_calm_or_the_version_is_new():
    alarms = [window(h, State.ALARM) for h in range(3)]
    assert sustained([*alarms, window(4)], 3, 5) == ""
    assert sustained([*alarms, window(4, State.ALARM, version=2)], 3, 5) == ""


def test_alarm_of_a_metric_that_may_not_retrain_does_not_count():
    assert sustained([window(h, State.ALARM, retrain=False) for h in range(5)], 3, 5) == ""


def test_window_without_labels_neither_alarms_nor_calms():
    alarms = [window(h, State.ALARM) for h in range(3)]
    assert "3 of the last 3" in sustained([*alarms, window(4, State.UNKNOWN)], 3, 5)


# --- verdict ------------------------------------------------------------------------------------------------


def test_the_worst_verdict_wins():
    def findings(*verdicts):
        return [Finding("g", v, "") for v in verdicts]

    assert worst([]) is Verdict.PASS
    assert worst(findings(Verdict.PASS, Verdict.INCONCLUSIVE)) is Verdict.INCONCLUSIVE
    assert worst(findings(Verdict.ERROR, Verdict.INCONCLUSIVE)) is Verdict.ERROR
    assert worst(findings(Verdict.FAIL, Verdict.ERROR, Verdict.PASS)) is Verdict.FAIL


def test_measurement_is_shown_with_what_is_known_of_it():
    assert str(Measurement("auc", 0.81234)) == "auc 0.8123"
    assert str(Measurement("p99", 12.5, 11.0, 14.0, 100, " ms")) == "p99 12.5 ms [11, 14], n=100"


# --- version references -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "ref"),
    [
        ("churn@7", VersionRef("churn", 7)),
        ("churn@v7", VersionRef("churn", 7)),
        ("churn@production", VersionRef("churn", stage="production")),
        ("a.b-c@pre-prod", VersionRef("a.b-c", stage="pre-prod")),
    ],
)
def test_reference_is_read(text, ref):
    assert VersionRef.parse(text) == ref


@pytest.mark.parametrize("text", ["", "churn", "@7", "churn@", "a@b@c", "churn@7 ", "churn @7", "churn@a.b"])
def test_what_is_no_reference_is_refused(text):
    with pytest.raises(BadVersionRef):
        VersionRef.parse(text)


# --- policy -------------------------------------------------------------------------------------------------


def test_stage_without_a_section_demands_nothing_and_an_unknown_one_is_named():
    policy = Policy("churn", Ladder(("staging", "production")))
    assert policy.stage("staging") == Stage()
    with pytest.raises(UnknownName):
        policy.stage("stagin")


def test_live_stage_is_the_highest_with_an_endpoint():
    ladder = Ladder(("qa", "staging", "production"))
    stages = {"qa": Stage(endpoint=Endpoint("q")), "staging": Stage(endpoint=Endpoint("s"))}
    assert Policy("churn", ladder, stages).live_stage == "staging"
    assert Policy("churn", ladder).live_stage is None


def test_digest_of_a_policy_changes_with_what_it_demands_and_with_nothing_else():
    ladder = Ladder(("staging",))
    gate = Use("metric", {"name": "auc", "at_least": 0.8})
    one = Policy("churn", ladder, {"staging": Stage(gates=(gate,))})
    same = Policy(
        "churn", ladder, {"staging": Stage(gates=(Use("metric", {"at_least": 0.8, "name": "auc"}),))}
    )
    weaker = Policy("churn", ladder, {"staging": Stage(gates=(Use("metric", {"name": "auc"}),))})
    assert one.digest == same.digest
    assert one.digest != weaker.digest


@pytest.mark.parametrize(
    "make",
    [
        lambda: Policy("no spaces", Ladder(("a",))),
        lambda: Endpoint("../up"),
        lambda: Endpoint("e", port=70_000),
        lambda: Endpoint("e", workers=0),
        lambda: Probation(alpha=0.5),
        lambda: Probation(lasts="long"),
        lambda: Capture(sample=1.1),
        lambda: Watch(window="0s"),
        lambda: EvaluateOn(last="ever"),
        lambda: EvaluateOn(max_rows=0),
        lambda: EvaluateOn(min_rows=-5),
        lambda: Probation(error_rate=-1.0),
        lambda: Probation(quality_drop=7.0),
        lambda: Probation(or_labels=0),
    ],
)
def test_nonsense_in_a_policy_is_refused(make):
    with pytest.raises(ValueError):
        make()


# --- documents ----------------------------------------------------------------------------------------------

MANIFEST = Manifest(
    "onnx",
    "model/model.onnx",
    (Column("a", "double"), Column("b", "string", required=False)),
    Task("classification", "probabilities", (0, "x", 1.5, True)),
    {"model/model.onnx": FileEntry("0" * 64, 10), "sample.json": FileEntry("1" * 64, 5)},
    {"onnxruntime": "1.20"},
    {"providers": ["cpu"]},
)


def test_manifest_is_read_back_and_keeps_its_digest():
    again = Manifest.decode(MANIFEST.encode())
    assert again == MANIFEST
    assert again.digest == MANIFEST.digest
    assert replace(MANIFEST, options={}).digest != MANIFEST.digest
    assert MANIFEST.size_bytes == 10


def test_a_manifest_without_parameters_has_the_digest_that_it_had_before_there_were_any():
    assert MANIFEST.digest == "a60b92477d6c1de686e91419734fdf93c4e00ff1229278ca617d386dfdffe0ca"
    assert b"params" not in MANIFEST.encode()


def test_parameters_are_read_back():
    params = (
        Parameter("k", "long", 3),
        Parameter("words", "string", ("a", None), (-1,)),
        Parameter("none", "double", None),
    )
    made = replace(MANIFEST, params=params)
    assert Manifest.decode(made.encode()) == made
    assert made.digest != MANIFEST.digest
    for wrong in ({"dtype": "binary"}, {"shape": [2]}, {"more": 1}):
        page = {
            **json.loads(made.encode()),
            "params": [{"name": "k", "dtype": "long", "default": 3, **wrong}],
        }
        with pytest.raises(ValueError, match="not a"):
            Manifest.decode(json.dumps(page).encode())


@pytest.mark.parametrize("raw", [b"", b"[]", b"{}", b"null", b"\xff", b'{"runtime": 1}'])
def test_what_is_no_document_is_refused(raw):
    for kind in (Manifest, Routes, WorkerStatus):
        with pytest.raises(ValueError):
            kind.decode(raw)


def test_missing_and_extra_columns_are_named():
    assert differing_columns(MANIFEST.inputs, ["b", "c"]) == (["a"], ["c"])
    assert differing_columns(MANIFEST.inputs, ["a"]) == ([], [])


def test_routes_and_status_are_read_back():
    route = Route("m", 1, "d", "/b", 0.5)
    routes = Routes("e", 3, (route,), (route,), CaptureRule(0.5, ("email",), ("ts",), 10))
    assert Routes.decode(routes.encode()) == routes
    status = WorkerStatus(1, 2, 3, "why", {"m@1": 4})
    assert WorkerStatus.decode(status.encode()) == status
