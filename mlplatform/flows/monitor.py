"""monitor: captured rows become windows, windows become signals, signals become a decision that is kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import numpy as np

from mlplatform.domain.duration import duration
from mlplatform.domain.ledger import Kind
from mlplatform.domain.policy import Policy
from mlplatform.domain.truth import said_of
from mlplatform.domain.verdict import Evaluation
from mlplatform.domain.version import Version
from mlplatform.domain.watch import LABELS, REFUSED, Decision, Signal, State, Window, decide
from mlplatform.errors import ChangedBytes
from mlplatform.flows.evaluate import load_answers
from mlplatform.flows.intake import profile_then, take_in
from mlplatform.flows.labelling import LOOK_BACK
from mlplatform.flows.probation import version_of
from mlplatform.flows.sound import has_bytes
from mlplatform.flows.world import World
from mlplatform.ports.data import Ingested, KeptAside, Observed, Retention
from mlplatform.ports.extensions import Reference, WindowData
from mlplatform.stats.batch import Array, Columns, LateColumns
from mlplatform.stats.labels import Answers, to_labels, to_scores
from mlplatform.stats.profile import Profile
from mlplatform.stats.spec import ReferenceSpec

MONTH = timedelta(days=30)


@dataclass(frozen=True)
class Watched:
    """What one pass of the monitor saw."""

    ingested: Ingested
    windows: tuple[tuple[Window, Decision], ...]
    """New ones and those that late labels changed, oldest first."""
    pending_labels: int
    refused_labels: KeptAside = field(default_factory=KeptAside)
    """Labels that do not fit the rows they are for."""


def monitor(
    world: World, policy: Policy, endpoint: str, until: datetime | None = None, keep: bool = True
) -> Watched:
    """Ingest, close every window that is over, read again those with late labels, and decide.

    A window is over when a row after its end was captured, or `until` is past its end. Without `keep` nothing is stored
    of what was read.
    """
    ingested = take_in(world, policy, endpoint, _keep(world, policy))
    read = [w for due in _due(world, policy, endpoint, until) if (w := _measure(due)) is not None]
    stored = [(w, d) for w, d in world.windows.recent(policy.model, 100) if w.endpoint == endpoint]
    known = {w.start: w for w, _ in stored} | {w.start: w for w in read}
    seen = [(w, _decide(world, policy, [known[s] for s in sorted(known) if s <= w.start])) for w in read]
    if read and stored and stored[-1][0].start > read[-1].start:
        # The newest window's decision may rest on an earlier one that was read again.
        newest, before = stored[-1]
        again = _decide(world, policy, [known[s] for s in sorted(known)])
        seen += [(newest, again)] if again != before else []
    if keep:
        for window, decision in seen:
            world.windows.save(window, decision)
    return Watched(
        ingested,
        tuple(seen),
        world.observations.pending(endpoint),
        world.observations.aside(endpoint),
    )


def _keep(world: World, policy: Policy) -> Retention:
    keep = policy.capture.keep
    return Retention(world.clock.now() - duration(keep.for_), int(keep.size_gb * 1e9))


def _decide(world: World, policy: Policy, windows: Sequence[Window]) -> Decision:
    return decide(windows, _triggered(world, policy, windows))


@dataclass(frozen=True)
class _Stretch:
    """What the policy's model was asked at an endpoint, from `start` until `end`."""

    world: World
    policy: Policy
    endpoint: str
    start: datetime
    end: datetime

    def read(self, columns: bool = False) -> Observed:
        time, model = self.policy.data.time, self.policy.model
        return self.world.observations.read(
            self.endpoint, self.start, self.end, time, model=model, columns=columns
        )

    def columns(self, rows: Observed) -> Columns:
        """Of rows that were read without them."""
        whole = self.read(columns=True)
        return whole.take(np.isin(whole.ids, rows.ids)).columns

    def profile(self, spec: ReferenceSpec, version: int) -> Profile:
        time, model = self.policy.data.time, self.policy.model
        return self.world.observations.profile(
            self.endpoint, spec, version, self.start, self.end, time, model
        )


# --- windows ------------------------------------------------------------------------------------------------------


def _due(world: World, policy: Policy, endpoint: str, until: datetime | None) -> list[_Stretch]:
    """Windows to read: those closed since the last pass, and recent ones whose labelled rows grew in number."""
    span = world.observations.span(endpoint, policy.data.time)
    if span is None:
        return []
    step = duration(policy.watch.window)
    watermark = max(span[1], until) if until else span[1]
    known = {w.start: w for w, _ in world.windows.recent(policy.model, 10_000) if w.endpoint == endpoint}
    first = min(known) if known else _floor(span[0], step)
    starts = [first + i * step for i in range(int((watermark - first) / step))]
    recent = [s for s in starts if s in known][-LOOK_BACK:]
    stretches = [_Stretch(world, policy, endpoint, s, s + step) for s in starts]
    return [d for d in stretches if d.start not in known or (d.start in recent and _grew(d, known[d.start]))]


def _floor(moment: datetime, step: timedelta) -> datetime:
    """Windows shorter than a day start at round times, longer ones at the day of the first row."""
    if step >= timedelta(days=1):
        return moment.replace(hour=0, minute=0, second=0, microsecond=0)
    epoch = datetime(1970, 1, 1, tzinfo=UTC)
    return epoch + ((moment - epoch) // step) * step


def _grew(stretch: _Stretch, window: Window) -> bool:
    observed = stretch.read()
    now = int(observed.labelled.sum()), sum(observed.refused.values())
    return now != (window.labelled, window.refused)


def _measure(stretch: _Stretch) -> Window | None:
    world, policy, observed = stretch.world, stretch.policy, stretch.read()
    if observed.rows < policy.watch.min_rows:
        return None
    numbers, counts = np.unique(observed.versions, return_counts=True)
    version = version_of(world, policy.model, int(numbers[counts.argmax()]))
    if version is None or not has_bytes(world, version):
        return None  # it was collected: nothing is left to compare with
    reference = reference_of(world, version)
    current = _window_data(stretch, version, reference, observed.take(observed.versions == version.number))
    signals: list[Signal] = [
        world.build("metric", use).measure(reference, current) for use in policy.watch.metrics
    ]
    return Window(
        policy.model,
        stretch.endpoint,
        stretch.start,
        stretch.end,
        version.number,
        observed.rows,
        int(observed.labelled.sum()),
        (*signals, *_left_out(observed)),
    )


def _left_out(observed: Observed) -> list[Signal]:
    """That the window may be blind, because what came true does not fit."""
    if not (refused := sum(observed.refused.values())):
        return []
    return [Signal(LABELS, State.UNKNOWN, said_of(refused), details={REFUSED: refused})]


def _window_data(stretch: _Stretch, version: Version, reference: Reference, rows: Observed) -> WindowData:
    """The features stay on disk until a metric asks for more than their profile."""
    task = reference.manifest.task
    answers = Answers(
        to_labels(rows.predictions, task.output, task.classes or None),
        to_scores(rows.predictions, rows.scores, task.output),
    )
    return WindowData(
        start=stretch.start,
        end=stretch.end,
        version=version.number,
        columns=LateColumns(lambda: stretch.columns(rows)),
        answers=answers,
        truth=rows.truth,
        labelled=rows.labelled,
        windows_per_month=MONTH / duration(stretch.policy.watch.window),
        profile=stretch.profile(ReferenceSpec.from_dict(reference.spec), version.number),
    )


def reference_of(world: World, version: Version) -> Reference:
    """What the version was like when it was judged: profile of its reference data, and its answers with their truth."""
    stored = profile_then(world, version)
    answers, truth = _answers_then(world, version) or (None, np.empty(0))
    manifest = world.bundles.manifest(version.digest)
    return Reference(manifest, stored["spec"], stored["profile"], truth, answers)


def _answers_then(world: World, version: Version) -> tuple[Answers, Array] | None:
    evaluation = _judged_by(world, version)
    try:
        return load_answers(evaluation) if evaluation else None
    except ChangedBytes as error:
        world.progress(f"{error}; nothing is compared with it")
        return None


def _judged_by(world: World, version: Version) -> Evaluation | None:
    """The evaluation that let the version in. Later ones, as somebody's incumbent, may be on drifted rows."""
    let_in = (Kind.ROLLOUT_OPENED, Kind.PROMOTED)
    for entry in reversed(world.ledger.entries(version.model, version=version.number, kinds=let_in)):
        name = entry.draft.data.get("evaluation_id")
        if name and entry.draft.version == version.number:
            return world.evaluations.get(name)
    return None


def _triggered(world: World, policy: Policy, windows: Sequence[Window]) -> list[str]:
    reasons = [world.build("trigger", use).fires(windows) for use in policy.retrain.when]
    return [reason for reason in reasons if reason]
