"""In-memory fakes of the state ports.

They keep the contracts of the SQL adapters: `tests/contracts/state` runs the same suites on both.
"""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import datetime, timedelta

from mlplatform.domain.canonical import plain
from mlplatform.domain.rollout import ACTIVE, Phase, Rollout
from mlplatform.domain.verdict import Evaluation
from mlplatform.domain.watch import Decision, Window
from mlplatform.errors import Conflict, LeaseHeld, LeaseLost, UnknownName
from mlplatform.ports.clock import Clock
from mlplatform.ports.state import Firing, Intent, Lease, RetrainingRecord, Schedule
from mlplatform.testing.fakes.ledger import FakeLedger as FakeLedger
from mlplatform.testing.fakes.ledger import in_utc


class FakeEvaluations:
    """Implements Evaluations."""

    def __init__(self) -> None:
        self._saved: dict[str, Evaluation] = {}

    def save(self, evaluation: Evaluation) -> None:
        self._saved[evaluation.id] = replace(evaluation, details=_json(evaluation.details))

    def get(self, id: str) -> Evaluation | None:
        return self._saved.get(id)

    def find(self, bundle_digest: str, data_digest: str) -> Evaluation | None:
        return _newest(
            [
                e
                for e in self._saved.values()
                if (e.bundle_digest, e.data_digest) == (bundle_digest, data_digest)
            ]
        )

    def latest(self, bundle_digest: str) -> Evaluation | None:
        return _newest([e for e in self._saved.values() if e.bundle_digest == bundle_digest])

    def history(self, bundle_digest: str) -> list[Evaluation]:
        found = [e for e in self._saved.values() if e.bundle_digest == bundle_digest]
        return sorted(found, key=lambda e: e.at)


class FakeDeployments:
    """Implements Deployments."""

    def __init__(self) -> None:
        self._rollouts: dict[str, Rollout] = {}

    def open(self, rollout: Rollout) -> Rollout:
        if rollout.id in self._rollouts:
            return self._rollouts[rollout.id]
        self._demand_idle(rollout)
        self._rollouts[rollout.id] = replace(rollout, fence=1)
        return self._rollouts[rollout.id]

    def save(self, rollout: Rollout) -> Rollout:
        stored = self._rollouts.get(rollout.id)
        if stored is None or stored.fence != rollout.fence:
            raise Conflict(
                what=f"the rollout of {rollout.model}@{rollout.version} was moved on by another worker"
            )
        if _moves_traffic(rollout):
            self._demand_idle(rollout)
        self._rollouts[rollout.id] = replace(rollout, fence=rollout.fence + 1)
        return self._rollouts[rollout.id]

    def active(self, model: str | None = None) -> list[Rollout]:
        return [r for r in self._oldest_first() if r.phase in ACTIVE and model in (None, r.model)]

    def history(self, model: str) -> list[Rollout]:
        return [r for r in self._oldest_first() if r.model == model]

    def _oldest_first(self) -> list[Rollout]:
        return sorted(self._rollouts.values(), key=lambda rollout: rollout.opened_at)

    def _demand_idle(self, rollout: Rollout) -> None:
        others = (r for r in self._rollouts.values() if r.id != rollout.id)
        if any(_moves_traffic(r) and r.endpoint == rollout.endpoint for r in others):
            raise Conflict(what=f"endpoint {rollout.endpoint} is busy with another rollout")


class FakeWindows:
    """Implements Windows."""

    def __init__(self) -> None:
        self._saved: dict[tuple[str, str, datetime], tuple[Window, Decision]] = {}

    def save(self, window: Window, decision: Decision) -> None:
        signals = tuple(replace(s, details=_json(s.details)) for s in window.signals)
        saved = (replace(window, signals=signals), decision)
        self._saved[(window.model, window.endpoint, window.start)] = saved

    def recent(self, model: str, count: int) -> list[tuple[Window, Decision]]:
        mine = [pair for pair in self._saved.values() if pair[0].model == model]
        mine.sort(key=lambda pair: (pair[0].start, pair[0].endpoint))
        return mine[-count:] if count else []


class FakeRetrainings:
    """Implements Retrainings."""

    def __init__(self) -> None:
        self._saved: dict[str, RetrainingRecord] = {}

    def save(self, record: RetrainingRecord) -> None:
        self._saved[record.id] = record

    def history(self, model: str) -> list[RetrainingRecord]:
        return sorted((r for r in self._saved.values() if r.model == model), key=lambda record: record.at)


class FakeLeases:
    """Implements Leases."""

    def __init__(self, clock: Clock) -> None:
        self._clock, self._held, self._fences = clock, dict[str, Lease](), dict[str, int]()

    def acquire(self, name: str, owner: str, seconds: float) -> Lease:
        now = in_utc(self._clock.now())
        held = self._held.get(name)
        if held and held.until > now:
            raise LeaseHeld(name=name, owner=held.owner, until=held.until.isoformat())
        self._fences[name] = self._fences.get(name, 0) + 1
        self._held[name] = Lease(name, owner, self._fences[name], now + timedelta(seconds=seconds))
        return self._held[name]

    def seize(self, name: str, owner: str, holder: str, seconds: float) -> Lease:
        held = self._held.get(name)
        if held is None or held.owner != holder:
            raise LeaseHeld(name=name, owner=held.owner if held else holder, until="just now")
        del self._held[name]
        return self.acquire(name, owner, seconds)

    def renew(self, lease: Lease, seconds: float) -> Lease:
        if not self._is_ours(lease):
            raise LeaseLost(name=lease.name)
        until = in_utc(self._clock.now()) + timedelta(seconds=seconds)
        self._held[lease.name] = replace(lease, until=until)
        return self._held[lease.name]

    def release(self, lease: Lease) -> None:
        if self._is_ours(lease):
            del self._held[lease.name]

    def holder(self, name: str) -> Lease | None:
        return self._held.get(name)

    def _is_ours(self, lease: Lease) -> bool:
        held = self._held.get(lease.name)
        return held is not None and (held.owner, held.fence) == (lease.owner, lease.fence)


class FakeIntents:
    """Implements Intents."""

    def __init__(self) -> None:
        self._open: dict[str, Intent] = {}

    def open(self, intent: Intent) -> None:
        self._open[intent.key] = replace(intent, payload=_json(intent.payload))

    def close(self, key: str) -> None:
        self._open.pop(key, None)

    def left(self) -> list[Intent]:
        return sorted(self._open.values(), key=lambda intent: intent.at)


class FakeSchedules:
    """Implements Schedules."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._schedules: dict[str, Schedule] = {}
        self._firings: dict[tuple[str, datetime], Firing] = {}

    def save(self, schedule: Schedule) -> None:
        self._schedules[schedule.name] = schedule

    def all(self) -> list[Schedule]:
        return sorted(self._schedules.values(), key=lambda schedule: schedule.name)

    def remove(self, name: str) -> None:
        if name not in self._schedules:
            raise UnknownName("schedule", name, self._schedules)
        del self._schedules[name]

    def claim(self, schedule: str, due_at: datetime, owner: str) -> bool:
        firing = Firing(schedule, in_utc(due_at), owner, in_utc(self._clock.now()))
        return self._firings.setdefault((schedule, firing.due_at), firing) is firing

    def finish(self, schedule: str, due_at: datetime, outcome: str) -> None:
        firing = self._firings.get((schedule, in_utc(due_at)))
        if firing and firing.finished_at is None:
            ended = replace(firing, finished_at=in_utc(self._clock.now()), outcome=outcome)
            self._firings[(schedule, firing.due_at)] = ended

    def firings(self, schedule: str | None = None, unfinished: bool = False) -> list[Firing]:
        wanted = [f for f in self._firings.values() if schedule in (None, f.schedule)]
        wanted = [f for f in wanted if f.finished_at is None or not unfinished]
        return sorted(wanted, key=lambda firing: (firing.due_at, firing.schedule))


# --- helpers ------------------------------------------------------------------------------------------------


def _newest(evaluations: list[Evaluation]) -> Evaluation | None:
    return max(reversed(evaluations), key=lambda evaluation: evaluation.at, default=None)


def _moves_traffic(rollout: Rollout) -> bool:
    return rollout.phase in (Phase.OPENED, Phase.SHIFTED)


def _json(value: object) -> dict[str, object]:
    """As it comes back from a database."""
    read: dict[str, object] = json.loads(json.dumps(plain(value)))
    return read
