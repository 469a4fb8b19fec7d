"""Our own SQL: the ledger and what is kept beside it."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

from mlplatform.domain.chain import Head, Verification
from mlplatform.domain.ladder import Standings
from mlplatform.domain.ledger import Draft, Entry, Kind
from mlplatform.domain.rollout import Rollout
from mlplatform.domain.token import Token
from mlplatform.domain.verdict import Evaluation
from mlplatform.domain.version import Version
from mlplatform.domain.watch import Decision, Window


class Ledger(Protocol):
    """Versions, where they stand, and the hash-chained entries that put them there."""

    def models(self) -> list[str]: ...
    def versions(self, model: str) -> list[Version]: ...
    def standings(self, model: str, at: datetime | None = None) -> Standings:
        """As they are, or as they were at a moment, replayed from the entries."""

    def register(self, version: Version, draft: Draft) -> Entry:
        """A new version and its first entry, in one transaction. Repeating the draft's key changes nothing.

        The entry's data get the whole version, so that a later edit of it is found.
        """

    def append(self, draft: Draft) -> Entry:
        """Write an entry and make its changes, in one transaction, and mark the model's projections as due.

        Raises StageConflict when a change's origin is no longer where the version stands, or a stage is taken.
        Repeating the draft's key changes nothing and returns the entry that is there.
        """

    def entries(
        self,
        model: str,
        until: datetime | None = None,
        *,
        key: str | None = None,
        kinds: Collection[Kind] = (),
        version: int | None = None,
        stage: str | None = None,
        newest: int | None = None,
    ) -> list[Entry]:
        """Oldest first, up to and including `until`; of a long history ask only for what is needed.

        `version`, `stage`: entries that are about it or move something into or out of it, as `touches` and
        `concerns` of `domain.ledger` say. `newest`: no more than so many, the last ones.
        """

    def verify(self, model: str | None = None, recorded: Iterable[Head] = ()) -> Verification:
        """Whether one model's chain holds, or every chain: all its rows, and what stands beside them.

        `recorded`: heads that were kept elsewhere and that the chains must still contain.
        """


class Outbox(Protocol):
    """Models whose MLflow alias, tags and card may lag behind the ledger."""

    def due(self) -> list[tuple[str, int]]:
        """(model, seq of its newest entry)"""

    def told(self, model: str) -> int:
        """The seq up to which MLflow was told; 0 when it never was."""

    def done(self, model: str, seq: int) -> None:
        """Projected up to `seq`; a newer entry stays due."""


class Evaluations(Protocol):
    def save(self, evaluation: Evaluation) -> None: ...
    def get(self, id: str) -> Evaluation | None: ...
    def find(self, bundle_digest: str, data_digest: str) -> Evaluation | None: ...
    def latest(self, bundle_digest: str) -> Evaluation | None: ...
    def history(self, bundle_digest: str) -> list[Evaluation]:
        """Oldest first."""


class Deployments(Protocol):
    def open(self, rollout: Rollout) -> Rollout:
        """Raises Conflict when the endpoint has another active rollout that is not on probation."""

    def save(self, rollout: Rollout) -> Rollout:
        """Store a step, guarded by the fence it was read with; raises Conflict. Returns it with the next fence."""

    def active(self, model: str | None = None) -> list[Rollout]: ...
    def history(self, model: str) -> list[Rollout]: ...


class Windows(Protocol):
    def save(self, window: Window, decision: Decision) -> None:
        """Store a closed window once; saving it again replaces it."""

    def recent(self, model: str, count: int) -> list[tuple[Window, Decision]]:
        """Newest last."""


@dataclass(frozen=True)
class RetrainingRecord:
    id: str
    model: str
    at: datetime
    cause: str
    outcome: str
    """`started`, `refused: <why>`, `waits: <why>` (a freeze window, a rollout), `went live`, `did not go live: <why>`,
    `failed: <why>`, `died: <why>`."""
    run_id: str | None = None
    version: int | None = None


class Retrainings(Protocol):
    def save(self, record: RetrainingRecord) -> None: ...
    def history(self, model: str) -> list[RetrainingRecord]:
        """Oldest first."""


@dataclass(frozen=True)
class Lease:
    name: str
    owner: str
    fence: int
    until: datetime


class Leases(Protocol):
    def acquire(self, name: str, owner: str, seconds: float) -> Lease:
        """Raises LeaseHeld. The fence is larger than that of every earlier holder."""

    def seize(self, name: str, owner: str, holder: str, seconds: float) -> Lease:
        """Take over at once from a holder that is known to be dead; raises LeaseHeld when somebody else was faster."""

    def renew(self, lease: Lease, seconds: float) -> Lease:
        """Raises LeaseLost when somebody else holds it."""

    def release(self, lease: Lease) -> None:
        """Give it back; nothing happens when it was lost."""

    def holder(self, name: str) -> Lease | None:
        """Who took it last and did not give it back; it may have expired."""


@dataclass(frozen=True)
class Intent:
    """What a flow is about to do to the world, so that a crash in the middle can be undone or redone."""

    key: str
    flow: str
    model: str
    payload: Mapping[str, Any]
    at: datetime


class Intents(Protocol):
    def open(self, intent: Intent) -> None: ...
    def close(self, key: str) -> None: ...
    def left(self) -> list[Intent]:
        """Intents that were opened and not closed, oldest first."""


@dataclass(frozen=True)
class Schedule:
    name: str
    verb: str
    """`monitor`, `retrain`, `reconcile`."""
    model: str
    cron: str
    timezone: str
    created_at: datetime


@dataclass(frozen=True)
class Firing:
    schedule: str
    due_at: datetime
    owner: str
    started_at: datetime
    finished_at: datetime | None = None
    outcome: str = ""


class Schedules(Protocol):
    def save(self, schedule: Schedule) -> None: ...
    def all(self) -> list[Schedule]: ...
    def remove(self, name: str) -> None: ...

    def claim(self, schedule: str, due_at: datetime, owner: str) -> bool:
        """Whether this runner is the one that fires; one True per (schedule, due_at), over all runners."""

    def finish(self, schedule: str, due_at: datetime, outcome: str) -> None: ...
    def firings(self, schedule: str | None = None, unfinished: bool = False) -> list[Firing]: ...


class Tokens(Protocol):
    """Tokens by id, and the SHA-256 of each. None is ever deleted: entries of the ledger name them."""

    def add(self, token: Token, secret_hash: str, first: bool = False) -> None:
        """Raises Conflict when the id is taken, or when it should be the first and there is another."""

    def find(self, id: str) -> tuple[Token, str] | None:
        """A token and its hash."""

    def all(self) -> list[Token]:
        """Oldest first."""

    def hashed(self) -> list[tuple[Token, str]]:
        """All of them with their hashes."""

    def revoke(self, id: str, at: datetime, by: str) -> Token:
        """The token as it is then; the first revocation stays. Raises UnknownName."""
