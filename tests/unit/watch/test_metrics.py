"""Drift and quality: quiet windows stay quiet as often as stated, real changes are seen, and little data says so."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlplatform.domain.bundle import Column, Manifest, Task
from mlplatform.domain.watch import State
from mlplatform.errors import UnknownName
from mlplatform.plugins.metrics.drift import ANSWERS, DriftMetric
from mlplatform.plugins.metrics.quality import QualityMetric
from mlplatform.ports.extensions import Reference, WindowData
from mlplatform.stats.labels import Answers
from mlplatform.stats.profile import make_spec, profile

NOW = datetime(2026, 1, 1, tzinfo=UTC)
NAMES = tuple(f"x{i}" for i in range(8))
Table = dict[str, np.ndarray]


def table(rng: np.random.Generator, rows: int) -> Table:
    numbers = {name: rng.normal(size=rows) for name in NAMES}
    return {
        **numbers,
        "city": rng.choice(np.array(["Bern", "Basel", "Chur"], object), rows, p=[0.6, 0.3, 0.1]),
    }


def answers(rng: np.random.Generator, truth: np.ndarray, accuracy: float) -> Answers:
    """Right with that probability, and honest about it."""
    right = rng.random(len(truth)) < accuracy
    labels = np.where(right, truth, 1 - truth)
    scores = np.where(labels[:, None] == [0, 1], accuracy, 1 - accuracy)
    return Answers(labels, scores)


def reference(rng: np.random.Generator, rows: int = 3000, accuracy: float = 0.9) -> Reference:
    columns = table(rng, rows)
    spec = make_spec(columns)
    inputs = tuple(Column(name, "string" if name == "city" else "double") for name in columns)
    manifest = Manifest("onnx", "m", inputs, Task("classification", "label", (0, 1)), {})
    truth = rng.integers(0, 2, rows)
    known = answers(rng, truth, accuracy)
    return Reference(manifest, spec.to_dict(), profile(spec, columns).to_dict(), truth, known)


def window(
    rng: np.random.Generator,
    rows: int = 500,
    accuracy: float = 0.9,
    labels: int | None = None,
    **columns: Any,
) -> WindowData:
    truth = rng.integers(0, 2, rows)
    labelled = np.arange(rows) < (rows if labels is None else labels)
    return WindowData(
        start=NOW,
        end=NOW,
        version=1,
        columns={**table(rng, rows), **columns},
        answers=answers(rng, truth, accuracy),
        truth=np.array([int(t) if known else None for t, known in zip(truth, labelled, strict=True)], object),
        labelled=labelled,
        windows_per_month=30.0,
    )


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(7)


# ---- drift


@pytest.mark.parametrize("alarms_per_month", [0.5, 1.0])
def test_quiet_windows_alarm_no_more_often_than_stated(
    rng: np.random.Generator, alarms_per_month: float
) -> None:
    metric = DriftMetric(alarms_per_month=alarms_per_month, effect_floor=0.0)
    months, alarms = 10, 0
    for _ in range(months):
        known = reference(rng)
        alarms += sum(metric.measure(known, window(rng)).state is State.ALARM for _ in range(30))
    assert alarms <= alarms_per_month * months + 2.6 * (alarms_per_month * months) ** 0.5


def test_a_shifted_column_alarms_and_is_named_with_its_size(rng: np.random.Generator) -> None:
    signal = DriftMetric().measure(reference(rng), window(rng, x3=rng.normal(0.5, size=500)))
    assert signal.state is State.ALARM
    assert not signal.retrain
    assert "x3 (KS 0." in signal.because
    seen = {column["column"]: column for column in signal.details["columns"]}
    assert [name for name, column in seen.items() if column["drifted"]] == ["x3"]
    assert seen["x3"]["psi"] > 0.1 > seen["x2"]["psi"]
    assert 0.1 < seen["x3"]["distance"] < 0.4


def test_a_new_label_and_a_rise_of_nulls_are_said_as_such(rng: np.random.Generator) -> None:
    city = np.array(["Genf", "Bern"], object)[rng.integers(0, 2, 500)]
    gaps = np.where(rng.random(500) < 0.3, np.nan, rng.normal(size=500))
    because = DriftMetric().measure(reference(rng), window(rng, city=city, x0=gaps)).because
    assert "city (" in because
    assert "x0 (nulls 0% to 3" in because


def test_other_answers_to_the_same_inputs_alarm(rng: np.random.Generator) -> None:
    current = window(rng)
    ones = Answers(np.ones(500, int), np.tile([0.1, 0.9], (500, 1)))
    signal = DriftMetric().measure(reference(rng), replace(current, answers=ones))
    assert signal.state is State.ALARM
    assert ANSWERS in signal.because


def test_a_certain_but_tiny_change_is_no_drift(rng: np.random.Generator) -> None:
    known, current = reference(rng, 200_000), window(rng, 200_000, x0=rng.normal(0.025, size=200_000))
    assert DriftMetric().measure(known, current).state is State.OK
    assert DriftMetric(effect_floor=0.0).measure(known, current).state is State.ALARM


def test_only_the_columns_asked_for_are_watched(rng: np.random.Generator) -> None:
    current = window(rng, x3=rng.normal(2, size=500))
    signal = DriftMetric(columns=["x1", "city"]).measure(reference(rng), current)
    assert signal.state is State.OK
    assert [column["column"] for column in signal.details["columns"]] == ["x1", "city", ANSWERS]
    with pytest.raises(UnknownName, match="x33"):
        DriftMetric(columns=["x33"]).measure(reference(rng), current)


def test_a_column_that_was_not_captured_is_not_taken_for_nulls(rng: np.random.Generator) -> None:
    current = window(rng)
    columns = {name: values for name, values in current.columns.items() if name != "x0"}
    signal = DriftMetric().measure(reference(rng), replace(current, columns=columns))
    assert signal.state is State.OK
    assert "x0" not in [column["column"] for column in signal.details["columns"]]


def test_context_beside_the_features_is_not_watched(rng: np.random.Generator) -> None:
    current = window(rng, at=np.arange(500))
    columns = DriftMetric().measure(reference(rng), current).details["columns"]
    assert "at" not in [column["column"] for column in columns]


def test_few_rows_are_no_verdict(rng: np.random.Generator) -> None:
    signal = DriftMetric(min_rows=40).measure(reference(rng), window(rng, 39))
    assert signal.state is State.UNKNOWN
    assert signal.because == "39 rows, 40 needed to look for drift"


def test_a_regression_s_values_are_watched_as_numbers(rng: np.random.Generator) -> None:
    known, current = reference(rng), window(rng)
    manifest = replace(known.manifest, task=Task("regression", "value"))
    known = replace(
        known, manifest=manifest, answers=Answers(rng.normal(size=3000)), truth=rng.normal(size=3000)
    )
    same = replace(current, answers=Answers(rng.normal(size=500)))
    assert DriftMetric().measure(known, same).state is State.OK
    moved = replace(current, answers=Answers(rng.normal(1, size=500)))
    assert "(prediction) (KS 0." in DriftMetric().measure(known, moved).because


# ---- quality


def test_a_model_worse_by_exactly_the_drop_alarms_about_as_often_as_alpha(rng: np.random.Generator) -> None:
    metric = QualityMetric(drop=0.05, alpha=0.05, estimate=False)
    alarms = 0
    for _ in range(600):
        known, current = reference_answers(rng, 2000, 0.9), window_answers(rng, 1000, 0.85)
        alarms += metric.measure(known, current).state is State.ALARM
    assert 12 <= alarms <= 50


def test_a_model_as_good_as_before_does_not_alarm(rng: np.random.Generator) -> None:
    states = [
        QualityMetric().measure(reference_answers(rng, 1000, 0.9), window_answers(rng, 500, 0.9)).state
        for _ in range(100)
    ]
    assert set(states) == {State.OK}


def test_a_clear_loss_alarms_and_may_retrain(rng: np.random.Generator) -> None:
    signal = QualityMetric().measure(reference(rng), window(rng, accuracy=0.7))
    assert signal.state is State.ALARM
    assert signal.retrain
    assert "worse by more than 0.05" in signal.because
    now, expected, before = signal.measurements
    assert [m.name for m in signal.measurements] == ["accuracy", "estimated_accuracy", "reference_accuracy"]
    assert now.n == 500
    assert now.low < now.value < now.high < before.low  # type: ignore[operator]
    assert expected.value == pytest.approx(0.7, abs=0.03)


def test_too_few_labels_are_no_verdict_but_give_an_estimate(rng: np.random.Generator) -> None:
    signal = QualityMetric(min_labels=50).measure(reference(rng), window(rng, labels=49))
    assert signal.state is State.UNKNOWN
    assert signal.because.startswith("49 labelled rows, 50 needed to judge accuracy; estimated accuracy 0.")
    assert signal.retrain
    without = QualityMetric(estimate=False).measure(reference(rng), window(rng, labels=0))
    assert [m.name for m in without.measurements] == ["reference_accuracy"]


def test_only_labelled_rows_are_judged(rng: np.random.Generator) -> None:
    signal = QualityMetric().measure(reference(rng), window(rng, labels=60))
    assert signal.measurements[0].n == 60


def test_doubtful_scores_alarm_before_labels_come(rng: np.random.Generator) -> None:
    known = reference(rng, accuracy=0.9)
    spread = np.clip(rng.normal(0.9, 0.1, 3000), 0.5, 1)
    truth = known.truth
    right = rng.random(3000) < spread
    labels = np.where(right, truth, 1 - truth)
    scores = np.where(labels[:, None] == [0, 1], spread[:, None], 1 - spread[:, None])
    known = replace(known, answers=Answers(labels, scores))
    unsure = np.tile([0.6, 0.4], (500, 1))
    current = replace(window(rng, labels=0), answers=Answers(np.zeros(500, int), unsure))
    signal = QualityMetric().measure(known, current)
    assert signal.state is State.ALARM
    assert signal.because.startswith("estimated accuracy")


def test_errors_that_grow_are_a_loss(rng: np.random.Generator) -> None:
    known = reference(rng)
    task = Task("regression", "value")
    truth = rng.normal(size=1000)
    known = replace(
        known,
        manifest=replace(known.manifest, task=task),
        truth=truth,
        answers=Answers(truth + rng.normal(size=1000)),
    )
    current = window(rng)
    now = rng.normal(size=500)
    labelled = replace(current, truth=now.astype(object), labelled=np.ones(500, bool))
    metric = QualityMetric("mae", drop=0.1)
    same = replace(labelled, answers=Answers(now + rng.normal(size=500)))
    assert metric.measure(known, same).state is State.OK
    worse = replace(labelled, answers=Answers(now + 2 * rng.normal(size=500)))
    assert metric.measure(known, worse).state is State.ALARM
    better = replace(labelled, answers=Answers(now))
    assert metric.measure(known, better).state is State.OK


def test_classes_written_as_text_and_numbers_are_the_same(rng: np.random.Generator) -> None:
    current = window(rng)
    text = replace(current, truth=np.array([str(t) for t in current.truth], object))
    known = reference(rng)
    a, b = (QualityMetric().measure(known, one).measurements[0] for one in (current, text))
    assert a == b


def test_an_unknown_reference_or_an_unusable_measure_is_no_verdict(rng: np.random.Generator) -> None:
    known = reference(rng)
    assert QualityMetric().measure(replace(known, answers=None), window(rng)).state is State.UNKNOWN
    bare = replace(window(rng), answers=Answers(np.zeros(500, int)))
    signal = QualityMetric("auc").measure(known, bare)
    assert signal.state is State.UNKNOWN
    assert "needs probabilities" in signal.because


def test_signals_can_be_stored_as_json(rng: np.random.Generator) -> None:
    known, current = reference(rng), window(rng, x0=np.full(500, np.nan))
    for metric in (DriftMetric(), QualityMetric(), QualityMetric("auc"), QualityMetric("f1")):
        signal = metric.measure(known, current)
        again = json.loads(json.dumps(asdict(signal), allow_nan=False))
        assert again["because"] == signal.because


# ---- options


@pytest.mark.parametrize(
    ("make", "option"),
    [
        (lambda: DriftMetric(columns="age"), "columns"),
        (lambda: DriftMetric(alarms_per_month=0), "alarms_per_month"),
        (lambda: DriftMetric(effect_floor=1.0), "effect_floor"),
        (lambda: DriftMetric(min_rows=1), "min_rows"),
        (lambda: QualityMetric("acuracy"), "name"),
        (lambda: QualityMetric(drop=-0.1), "drop"),
        (lambda: QualityMetric(drop=float("nan")), "drop"),
        (lambda: QualityMetric(min_labels=1), "min_labels"),
        (lambda: QualityMetric(alpha=0.5), "alpha"),
    ],
)
def test_a_wrong_option_is_named(make: Any, option: str) -> None:
    with pytest.raises(ValueError, match=option):
        make()


# ---- real drift


@pytest.mark.data
def test_on_electricity_quality_alarms_where_the_model_fails_and_not_where_only_inputs_drift(
    data: Path,
) -> None:
    from sklearn.ensemble import HistGradientBoostingClassifier

    from mlplatform.data.tables import ParquetTables

    stream = ParquetTables().read(data / "elec2" / "elec2.parquet")
    names = ("day", "period", "nswprice", "nswdemand", "vicprice", "vicdemand", "transfer")
    matrix, truth, size = np.column_stack([stream[name] for name in names]), stream["class"], 1344
    trained, known = int(7 * size * 0.8), 7 * size
    model = HistGradientBoostingClassifier(max_iter=50, random_state=0).fit(matrix[:trained], truth[:trained])

    def answered(rows: slice) -> Answers:
        scores = model.predict_proba(matrix[rows])
        return Answers(model.classes_[scores.argmax(axis=1)], scores)

    before = {name: stream[name][:known] for name in names}
    spec = make_spec(before)
    inputs = tuple(Column(name, "double") for name in names)
    task = Task("classification", "label", tuple(model.classes_.tolist()))
    holdout = slice(trained, known)
    judged = Reference(
        Manifest("sklearn", "m", inputs, task, {}),
        spec.to_dict(),
        profile(spec, before).to_dict(),
        truth[holdout],
        answered(holdout),
    )

    def alarms(metric: Any, number: int) -> bool:
        rows = slice(number * size, (number + 1) * size)
        current = WindowData(
            NOW,
            NOW,
            1,
            {n: stream[n][rows] for n in names},
            answered(rows),
            truth[rows],
            np.ones(size, bool),
            1.0,
        )
        return metric.measure(judged, current).state is State.ALARM

    assert all(alarms(QualityMetric(), number) for number in range(14, 26))
    assert not any(alarms(QualityMetric(), number) for number in range(7, 11))
    assert not any(alarms(QualityMetric(), number) for number in range(26, 31))
    assert all(alarms(DriftMetric(), number) for number in range(7, 11))


def reference_answers(rng: np.random.Generator, rows: int, accuracy: float) -> Reference:
    truth = rng.integers(0, 2, rows)
    manifest = Manifest("onnx", "m", (), Task("classification", "label", (0, 1)), {})
    return Reference(manifest, {}, {}, truth, answers(rng, truth, accuracy))


def window_answers(rng: np.random.Generator, rows: int, accuracy: float) -> WindowData:
    truth = rng.integers(0, 2, rows)
    known = np.ones(rows, bool)
    return WindowData(NOW, NOW, 1, {}, answers(rng, truth, accuracy), truth.astype(object), known, 30.0)
