"""trend: a metric over a model's versions, each by its newest evaluation, and which of them share their rows."""

from __future__ import annotations

from dataclasses import replace

from mlplatform.domain.bundle import Task
from mlplatform.domain.policy import Policy
from mlplatform.domain.trend import Point, Rows, Trend, row_name
from mlplatform.domain.verdict import Evaluation
from mlplatform.domain.version import Version
from mlplatform.errors import MlplatformError, UnknownName, UsageError
from mlplatform.flows.same_rows import Gap, answered, fits, gap, on_same_rows, value_of
from mlplatform.flows.world import World
from mlplatform.stats.metrics import METRICS


def trend(world: World, policy: Policy | None, model: str, metric: str | None = None) -> Trend:
    """A metric over the versions; by default the first one that was measured.

    Raises UnknownName with the nearest metric that fits the model's task, UsageError when nothing was evaluated.
    """
    versions = sorted(world.ledger.versions(model), key=lambda v: v.number)
    newest = {v.number: world.evaluations.latest(v.digest) for v in versions}
    name = _demand(world, versions, newest, model, metric)
    standings = world.ledger.standings(model)
    holder = standings.holder(policy.live_stage or policy.ladder.stages[-1]) if policy else None
    live = next((v for v in versions if v.number == holder), None)
    rows: dict[str, tuple[str, Rows]] = {}
    for evaluation in newest.values():
        if evaluation:
            rows.setdefault(evaluation.data_digest, (row_name(len(rows)), _rows(evaluation)))
    points = []
    for version in versions:
        evaluation, place = newest[version.number], standings.places.get(version.number, "-")
        point = Point(version, place, version is live)
        if evaluation:
            value = value_of(evaluation, answered(world, version, evaluation), name)
            point = replace(point, value=value, rows=rows[evaluation.data_digest][0], at=evaluation.at)
        if live and version is not live and (found := _against(world, version, live, name)):
            point = replace(point, against_live=found.measurement, said=found.said)
        points.append(point)
    return Trend(model, name, METRICS[name].higher_is_better, tuple(points), dict(rows.values()))


def _against(world: World, version: Version, live: Version, metric: str) -> Gap | None:
    common = on_same_rows(world, version, live)
    if common is None:
        return None
    return gap(answered(world, version, common[0]), answered(world, live, common[1]), metric)


def _demand(
    world: World,
    versions: list[Version],
    newest: dict[int, Evaluation | None],
    model: str,
    metric: str | None,
) -> str:
    measured = [m.name for e in newest.values() if e for m in e.measurements]
    if not measured:
        hint = f"Ask the gates of a stage: mlplatform check {model}@N STAGE"
        raise UsageError(hint, what=f"no version of {model} was evaluated yet")
    if metric is None:
        return measured[0]
    task = next((t for v in reversed(versions) if (t := _task(world, v))), None)
    known = sorted({*measured, *(name for name in METRICS if task and fits(name, task))})
    if metric not in known:
        raise UnknownName(f"metric of {model}", metric, known)
    return metric


def _task(world: World, version: Version) -> Task | None:
    try:
        return world.bundles.manifest(version.digest).task
    except MlplatformError:  # its bytes were freed
        return None


def _rows(evaluation: Evaluation) -> Rows:
    return Rows(evaluation.data_digest, str(evaluation.details.get("source", "")), evaluation.rows)
