"""The rows that candidate and incumbent answer: where they come from, which are left out, and which these are."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256

import numpy as np

from mlplatform.domain.canonical import digest
from mlplatform.domain.duration import duration
from mlplatform.domain.policy import Policy
from mlplatform.domain.truth import said_of
from mlplatform.domain.version import Version
from mlplatform.errors import UsageError, WorldError
from mlplatform.flows.sound import demand_evidence
from mlplatform.flows.world import World
from mlplatform.stats.batch import Array, Columns, take
from mlplatform.stats.typed import rows_with_values

HOLDOUT, TRAINED_ON = "holdout.parquet", "trained_on.npy"


@dataclass(frozen=True)
class Rows:
    """The rows of an evaluation, frozen by digest."""

    columns: Columns
    truth: Array
    digest: str
    source: str
    offered: int
    """Rows before any were left out."""
    seen_in_training: int
    """Of these, rows that the version was trained on."""
    seen_by_incumbent: int
    """Of these, rows that only the incumbent was trained on."""
    newest: datetime | None
    """Time of the newest row; None where rows have no time."""

    @property
    def seed(self) -> int:
        return int(self.digest[:8], 16)


def evaluation_rows(world: World, policy: Policy, version: Version, incumbent: Version | None) -> Rows:
    """The policy's rows, without those that either model was trained on. Raises ChangedBytes for other evidence."""
    if policy.data.evaluate.use == "labelled_window" and (
        rows := _labelled(world, policy, version, incumbent)
    ):
        return rows
    demand_evidence(world, version, HOLDOUT)
    source = world.bundles.evidence(version.digest) / HOLDOUT
    table = world.tables.read(source)
    truth = table.pop(world.bundles.manifest(version.digest).task.target)
    times = world.tables.times(table[policy.data.time]) if policy.data.time in table else None
    offered = _Offered(table, truth, times, f"holdout of run {version.run_id[:8]}")
    return _unseen(world, policy, version, incumbent, offered)


def labelled_window(
    world: World, policy: Policy, endpoint: str, until: datetime | None
) -> tuple[datetime, datetime] | None:
    """The newest stretch of labelled rows that evaluations use: its start and its newest row's time."""
    observed = world.observations.read(
        endpoint, None, until, policy.data.time, labelled=True, model=policy.model, columns=False
    )
    if observed.rows == 0:
        return None
    times = observed.times
    rows = min(len(times), max(policy.data.evaluate.min_rows, 1))
    newest = _moment(times[-1])
    start = min(newest - duration(policy.data.evaluate.last), _moment(times[-rows]))
    return start, newest


def training_end(world: World, policy: Policy, endpoint: str) -> datetime | None:
    """Before it a retraining takes the labelled rows: where evaluations begin, or half-way through all of them while
    that leaves fewer to learn from. What was trained on is left out of evaluations anyway. None without labelled
    rows."""
    window = labelled_window(world, policy, endpoint, None)
    if window is None:
        return None
    times = world.observations.read(
        endpoint, None, None, policy.data.time, labelled=True, model=policy.model, columns=False
    ).times
    older = min(len(times) // 2, len(times) - policy.data.evaluate.min_rows)
    return max(window[0], _moment(times[older])) if older > 0 else window[0]


@dataclass(frozen=True)
class _Offered:
    """Rows before any were left out. `times`: datetime64 with NaT, or None where rows have no time."""

    columns: Columns
    truth: Array
    times: Array | None
    source: str


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
    observed = world.observations.read(
        endpoint.name, start, None, policy.data.time, labelled=True, model=policy.model
    )
    refused = said_of(sum(observed.refused.values()))
    source = f"{observed.rows} labelled rows {start:%Y-%m-%d %H:%M} .. {end:%Y-%m-%d %H:%M}"
    source += f", {refused}" if refused else ""
    offered = _Offered(observed.columns, observed.truth, observed.times, source)
    rows = _unseen(world, policy, version, incumbent, offered)
    return rows if len(rows.truth) >= policy.data.evaluate.min_rows else None


def _unseen(
    world: World, policy: Policy, version: Version, incumbent: Version | None, offered: _Offered
) -> Rows:
    """Leave out rows that a version was trained on or cannot be asked; keep and digest at most `max_rows`."""
    inputs = world.bundles.manifest(version.digest).inputs
    rows, whole = world.tables.row_digests(offered.columns, inputs), rows_with_values(offered.columns, inputs)
    own, others = (_trained_on(world, v, offered.columns) for v in (version, incumbent))
    keep = np.flatnonzero(whole & ~(own | others))[-policy.data.evaluate.max_rows :]
    truth = offered.truth[keep]
    name = sha256(rows[keep].tobytes() + digest([str(t) for t in truth]).encode()).hexdigest()
    dropped = int((own | others).sum())
    return Rows(
        columns=take(offered.columns, keep),
        truth=truth,
        digest=name,
        source=offered.source
        + (f", {dropped} seen in training left out" if dropped else "")
        + ("" if whole.all() else f", {int((~whole).sum())} with values too large to capture left out"),
        offered=len(rows),
        seen_in_training=int(own.sum()),
        seen_by_incumbent=int((others & ~own).sum()),
        newest=None if offered.times is None else _newest(offered.times[keep]),
    )


def _trained_on(world: World, version: Version | None, columns: Columns) -> Array:
    """Which rows, by the digests of its own inputs, a version was trained on."""
    none = np.zeros(len(next(iter(columns.values()), ())), np.bool_)
    if version is None:
        return none
    demand_evidence(world, version, TRAINED_ON)
    place = world.bundles.evidence(version.digest) / TRAINED_ON
    try:
        seen = np.load(place, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise WorldError(what=f"{place} cannot be read: {type(error).__name__}") from error
    try:
        rows = world.tables.row_digests(columns, world.bundles.manifest(version.digest).inputs)
    except UsageError:  # an incumbent of other columns, which cannot answer these rows either
        return none
    return np.isin(rows, seen)


def _newest(times: Array) -> datetime | None:
    known = times[~np.isnat(times)]
    return _moment(known.max()) if len(known) else None


def _moment(value: np.datetime64) -> datetime:
    """numpy's UTC time as Python's, with its zone."""
    result: datetime = value.astype("datetime64[us]").item()
    return result.replace(tzinfo=UTC)
