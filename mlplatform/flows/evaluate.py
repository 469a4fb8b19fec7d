"""evaluate: candidate and incumbent answer the same rows, measured once in a sandboxed child, judged by anybody."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256
from io import BytesIO
from pathlib import Path
from uuid import uuid4

import numpy as np

from mlplatform.domain.bundle import Task
from mlplatform.domain.policy import Policy
from mlplatform.domain.verdict import Evaluation, Finding, Measurement, Verdict
from mlplatform.domain.version import Version
from mlplatform.errors import ChangedBytes, MlplatformError
from mlplatform.flows.rows import Rows, evaluation_rows
from mlplatform.flows.world import World, failpoint
from mlplatform.ports.extensions import Gate, Subject
from mlplatform.stats.batch import Array
from mlplatform.stats.estimate import interval
from mlplatform.stats.labels import Answers, to_labels, to_scores

HEADLINES = {"classification": ("accuracy",), "regression": ("mae", "rmse")}
"""Metrics that every evaluation carries, whatever the gates ask for."""


@dataclass(frozen=True)
class Judgement:
    """What the gates of a stage say of a version."""

    findings: tuple[Finding, ...]
    evaluation: Evaluation | None
    incumbent_evaluation: Evaluation | None = None


def judge(
    world: World,
    policy: Policy,
    stage: str,
    version: Version,
    incumbent: Version | None,
    keep: bool = True,
) -> Judgement:
    """Measure what the stage's gates need, then let each of them judge. A gate that cannot look is an ERROR.

    Without `keep` nothing of what is measured is stored; what was stored before is used all the same.
    """
    gates = [(use.use, world.build("gate", use)) for use in policy.stage(stage).gates]
    try:
        subject, own, other = _gather(world, policy, version, incumbent, [gate for _, gate in gates], keep)
    except MlplatformError as error:
        finding = Finding("evaluation", Verdict.ERROR, f"could not be measured: {error}")
        return Judgement((finding,), None)
    return Judgement(tuple(_finding(name, gate, subject) for name, gate in gates), own, other)


def measure(
    world: World, policy: Policy, version: Version, rows: Rows, keep: bool = True
) -> tuple[Evaluation, Answers]:
    """One version's answers to the rows; taken from the cache when bytes, rows and the answers' hash are the same.

    Without `keep` they are not put into the cache: the evaluation has no predictions' place then.
    """
    manifest = world.bundles.manifest(version.digest)
    known = world.evaluations.find(version.digest, rows.digest)
    if known and (answered := _known_answers(world, known)) is not None:
        return known, answered
    world.progress(f"{version.ref} answers {len(rows.truth)} rows ({rows.source})")
    outputs = world.evaluator.answer(world.bundles.path(version.digest), rows.columns)
    task = manifest.task
    answers = Answers(
        to_labels(outputs.predictions, task.output, task.classes or None),
        to_scores(outputs.predictions, outputs.scores, task.output),
    )
    failpoint("evaluate:answered")
    name = uuid4().hex
    path, checksum = _keep_answers(world, version, name, answers, rows.truth) if keep else ("", "")
    failpoint("evaluate:kept")
    evaluation = Evaluation(
        id=name,
        bundle_digest=version.digest,
        data_digest=rows.digest,
        rows=len(rows.truth),
        measurements=tuple(_headline(metric, rows.truth, answers, task) for metric in HEADLINES[task.kind]),
        predictions_path=path,
        at=world.clock.now(),
        details={"source": rows.source, "sha256": checksum},
    )
    if keep:
        world.evaluations.save(evaluation)
    return evaluation, answers


def load_answers(evaluation: Evaluation) -> tuple[Answers, Array] | None:
    """Answers and truth of an evaluation; None where they are not there any more.

    Raises ChangedBytes for a file that is not the one that was saved, whatever is in it.
    """
    place = Path(evaluation.predictions_path)
    if not place.is_file():
        return None
    raw = place.read_bytes()
    if sha256(raw).hexdigest() != evaluation.details.get("sha256"):
        raise ChangedBytes(
            hint="Evaluate the version again: it answers the rows once more.",
            what=f"evaluation {evaluation.id[:8]}",
            path=place.name,
            change="was changed",
        )
    with np.load(BytesIO(raw), allow_pickle=False) as file:
        return Answers(file["labels"], file.get("scores")), file["truth"]


# --- gathering ------------------------------------------------------------------------------------------------------


def _gather(
    world: World,
    policy: Policy,
    version: Version,
    incumbent: Version | None,
    gates: Sequence[Gate],
    keep: bool,
) -> tuple[Subject, Evaluation, Evaluation | None]:
    needs = frozenset().union(*(gate.needs for gate in gates))
    world.bundles.verify(version.digest)
    rows = evaluation_rows(world, policy, version, incumbent)
    own, answers = measure(world, policy, version, rows, keep)
    other, other_answers, unmeasured = _incumbents(world, policy, incumbent, rows, keep)
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
        incumbent_unmeasured=unmeasured,
        latency=world.evaluator.latency(bundle) if "latency" in needs else None,
        rows_offered=rows.offered,
        seen_in_training=rows.seen_in_training,
        seen_by_incumbent=rows.seen_by_incumbent,
        newest_row=rows.newest,
        trained_at=_trained_at(world, version),
        now=world.clock.now(),
    )
    return subject, own, other


def _incumbents(
    world: World, policy: Policy, incumbent: Version | None, rows: Rows, keep: bool
) -> tuple[Evaluation | None, Answers | None, str]:
    """The incumbent's answers, or why there are none: only gates that compare are an ERROR then."""
    if incumbent is None:
        return None, None, ""
    try:
        return *measure(world, policy, incumbent, rows, keep), ""
    except MlplatformError as error:
        return None, None, f"{incumbent.ref} could not be measured: {error}"


def _finding(name: str, gate: Gate, subject: Subject) -> Finding:
    """A gate's answer; one that fails itself, as another package's may, could not look."""
    try:
        return gate.judge(subject)
    except Exception as error:
        cause = " ".join(f"{type(error).__name__}: {error}".split())
        return Finding(name, Verdict.ERROR, f"the gate itself failed: {cause}")


def _trained_at(world: World, version: Version) -> datetime:
    """A compressed version is as old as the one that it was made of."""
    versions = {v.number: v for v in world.ledger.versions(version.model)}
    while version.parent in versions:
        version = versions[version.parent]
    return version.created_at


# --- one version's answers ------------------------------------------------------------------------------------------


def _headline(metric: str, truth: Array, answers: Answers, task: Task) -> Measurement:
    estimate = interval(metric, truth, answers, classes=task.classes or None)
    return Measurement(metric, estimate.value, estimate.low, estimate.high, estimate.n)


def _known_answers(world: World, known: Evaluation) -> Answers | None:
    """Those of an earlier evaluation, unless its file is gone or was changed."""
    try:
        loaded = load_answers(known)
    except ChangedBytes as error:
        world.progress(f"{error}; it is not used")
        return None
    return loaded[0] if loaded else None


def _keep_answers(
    world: World, version: Version, name: str, answers: Answers, truth: Array
) -> tuple[str, str]:
    """Their place, and the SHA-256 of what was written there."""
    arrays = {"labels": _plain(answers.labels), "truth": _plain(truth)}
    if answers.scores is not None:
        arrays["scores"] = answers.scores
    packed = BytesIO()
    np.savez_compressed(packed, **arrays)  # type: ignore[arg-type]
    with world.bundles.stage() as staged:
        file = staged / f"evaluation-{name}.npz"
        file.write_bytes(packed.getvalue())
        return str(world.bundles.keep(version.digest, file)), sha256(packed.getvalue()).hexdigest()


def _plain(values: Array) -> Array:
    """Object arrays would be pickled; text becomes fixed-width, numbers become numbers."""
    return np.array(values.tolist()) if values.dtype == object else values
