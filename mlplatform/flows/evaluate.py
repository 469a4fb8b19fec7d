"""evaluate: candidate and incumbent answer the same rows, measured once in a sandboxed child, judged by anybody."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256
from pathlib import Path
from uuid import uuid4

import numpy as np

from mlplatform.domain.canonical import digest
from mlplatform.domain.duration import duration
from mlplatform.domain.policy import Policy
from mlplatform.domain.verdict import Evaluation, Finding, Measurement, Verdict
from mlplatform.domain.version import Version
from mlplatform.errors import MlplatformError
from mlplatform.flows.world import World, failpoint
from mlplatform.ports.extensions import Gate, Subject
from mlplatform.stats.batch import Array, Columns, take
from mlplatform.stats.estimate import interval
from mlplatform.stats.labels import Answers, to_labels, to_scores

HEADLINES = {"classification": ("accuracy",), "regression": ("mae", "rmse")}
"""Metrics that every evaluation carries, whatever the gates ask for."""


@dataclass(frozen=True)
class Rows:
    """The rows of an evaluation, frozen by digest."""

    columns: Columns
    truth: Array
    digest: str
    source: str

    @property
    def seed(self) -> int:
        return int(self.digest[:8], 16)


@dataclass(frozen=True)
class Judgement:
    """What the gates of a stage say of a version."""

    findings: tuple[Finding, ...]
    evaluation: Evaluation | None
    incumbent_evaluation: Evaluation | None = None


def judge(world: World, policy: Policy, stage: str, version: Version, incumbent: Version | None) -> Judgement:
    """Measure what the stage's gates need, then let each of them judge. A gate that cannot look is an ERROR."""
    gates = [(use, world.build("gate", use)) for use in policy.stage(stage).gates]
    try:
        subject, own, other = _gather(world, policy, version, incumbent, [gate for _, gate in gates])
    except MlplatformError as error:
        finding = Finding("evaluation", Verdict.ERROR, f"could not be measured: {error}")
        return Judgement((finding,), None)
    return Judgement(tuple(gate.judge(subject) for _, gate in gates), own, other)


def evaluation_rows(world: World, policy: Policy, version: Version, incumbent: Version | None) -> Rows:
    """The policy's rows, without those that either model was trained on."""
    if policy.data.evaluate.use == "labelled_window" and (
        rows := _labelled(world, policy, version, incumbent)
    ):
        return rows
    source = world.bundles.evidence(version.digest) / "holdout.parquet"
    table = world.tables.read(source)
    manifest = world.bundles.manifest(version.digest)
    truth = table.pop(manifest.task.target)
    return _unseen(world, policy, (version, incumbent), table, truth, f"holdout of run {version.run_id[:8]}")


def measure(world: World, policy: Policy, version: Version, rows: Rows) -> tuple[Evaluation, Answers]:
    """One version's answers to the rows; taken from the cache when bytes and rows are the same."""
    manifest = world.bundles.manifest(version.digest)
    if (known := world.evaluations.find(version.digest, rows.digest)) and Path(
        known.predictions_path
    ).exists():
        return known, load_answers(Path(known.predictions_path))[0]
    world.progress(f"{version.ref} answers {len(rows.truth)} rows ({rows.source})")
    outputs = world.evaluator.answer(world.bundles.path(version.digest), rows.columns)
    task = manifest.task
    answers = Answers(
        to_labels(outputs.predictions, task.output, task.classes or None),
        to_scores(outputs.predictions, outputs.scores, task.output),
    )
    failpoint("evaluate:answered")
    name = uuid4().hex
    path = world.bundles.evidence(version.digest) / f"evaluation-{name}.npz"
    _save_answers(path, answers, rows.truth)
    evaluation = Evaluation(
        id=name,
        bundle_digest=version.digest,
        data_digest=rows.digest,
        rows=len(rows.truth),
        measurements=tuple(_headline(metric, rows.truth, answers) for metric in HEADLINES[task.kind]),
        predictions_path=str(path),
        at=world.clock.now(),
        details={"source": rows.source},
    )
    world.evaluations.save(evaluation)
    return evaluation, answers


def load_answers(path: Path) -> tuple[Answers, Array]:
    """Answers and truth of an evaluation."""
    with np.load(path, allow_pickle=False) as file:
        return Answers(file["labels"], file.get("scores")), file["truth"]


# --- gathering ------------------------------------------------------------------------------------------------------


def _gather(
    world: World, policy: Policy, version: Version, incumbent: Version | None, gates: Sequence[Gate]
) -> tuple[Subject, Evaluation, Evaluation | None]:
    needs = frozenset().union(*(gate.needs for gate in gates))
    world.bundles.verify(version.digest)
    rows = evaluation_rows(world, policy, version, incumbent)
    own, answers = measure(world, policy, version, rows)
    other, other_answers = measure(world, policy, incumbent, rows) if incumbent else (None, None)
    bundle = world.bundles.path(version.digest)
    costs = []
    if "cost" in needs:
        rivals = [bundle, *([world.bundles.path(incumbent.digest)] if incumbent else [])]
        costs = world.evaluator.costs(rivals)
    subject = Subject(
        version=version,
        manifest=world.bundles.manifest(version.digest),
        incumbent=incumbent,
        incumbent_manifest=world.bundles.manifest(incumbent.digest) if incumbent else None,
        data=rows.source,
        seed=rows.seed,
        columns=rows.columns,
        truth=rows.truth,
        answers=answers,
        incumbent_answers=other_answers,
        serving=world.evaluator.serving_check(bundle) if "serving" in needs else None,
        cost=costs[0] if costs else None,
        incumbent_cost=costs[1] if len(costs) > 1 else None,
    )
    return subject, own, other


def _labelled(world: World, policy: Policy, version: Version, incumbent: Version | None) -> Rows | None:
    """The newest labelled live rows, or None when there are fewer than the policy wants."""
    stage = policy.live_stage
    endpoint = policy.stage(stage).endpoint if stage else None
    if endpoint is None:
        return None
    window = labelled_window(world, policy, endpoint.name, None)
    if window is None:
        return None
    start, end = window
    observed = world.observations.read(endpoint.name, start, None, policy.data.time, labelled=True)
    rows = _unseen(
        world,
        policy,
        (version, incumbent),
        observed.columns,
        observed.truth,
        f"{observed.rows} labelled rows {start:%Y-%m-%d %H:%M} .. {end:%Y-%m-%d %H:%M}",
    )
    return rows if len(rows.truth) >= policy.data.evaluate.min_rows else None


def labelled_window(
    world: World, policy: Policy, endpoint: str, until: datetime | None
) -> tuple[datetime, datetime] | None:
    """The newest stretch of labelled rows that evaluations use: its start and its newest row's time."""
    observed = world.observations.read(endpoint, None, until, policy.data.time, labelled=True)
    if observed.rows == 0:
        return None
    times = observed.times
    rows = min(len(times), max(policy.data.evaluate.min_rows, 1))
    newest = as_datetime(times[-1])
    start = min(newest - duration(policy.data.evaluate.last), as_datetime(times[-rows]))
    return start, newest


def as_datetime(value: np.datetime64) -> datetime:
    """numpy's UTC time as Python's, with its zone."""
    from datetime import UTC

    result: datetime = value.astype("datetime64[us]").item()
    return result.replace(tzinfo=UTC)


def _unseen(
    world: World,
    policy: Policy,
    versions: Sequence[Version | None],
    columns: Columns,
    truth: Array,
    source: str,
) -> Rows:
    """Leave out rows that a version was trained on, keep at most `max_rows`, and digest what is left."""
    first = next(v for v in versions if v is not None)
    inputs = world.bundles.manifest(first.digest).inputs
    rows = world.tables.row_digests(columns, inputs)
    seen = np.concatenate(
        [
            np.load(world.bundles.evidence(v.digest) / "trained_on.npy", allow_pickle=False)
            for v in versions
            if v
        ]
    )
    keep = np.flatnonzero(~np.isin(rows, seen))[-policy.data.evaluate.max_rows :]
    kept_truth = truth[keep]
    name = sha256(rows[keep].tobytes() + digest([str(t) for t in kept_truth]).encode()).hexdigest()
    dropped = len(rows) - len(keep)
    note = f", {dropped} seen in training left out" if dropped else ""
    return Rows(take(columns, keep), kept_truth, name, source + note)


def _headline(metric: str, truth: Array, answers: Answers) -> Measurement:
    estimate = interval(metric, truth, answers)
    return Measurement(metric, estimate.value, estimate.low, estimate.high, estimate.n)


def _save_answers(path: Path, answers: Answers, truth: Array) -> None:
    arrays = {"labels": _plain(answers.labels), "truth": _plain(truth)}
    if answers.scores is not None:
        arrays["scores"] = answers.scores
    np.savez_compressed(path, **arrays)  # type: ignore[arg-type]


def _plain(values: Array) -> Array:
    """Object arrays would be pickled; text becomes fixed-width, numbers become numbers."""
    return np.array(values.tolist()) if values.dtype == object else values
