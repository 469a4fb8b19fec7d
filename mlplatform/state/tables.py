"""Every table of our own database, in SQLAlchemy Core. `migrations/` makes the same; a test compares them."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    DateTime,
    Dialect,
    Index,
    Integer,
    MetaData,
    Table,
    Text,
    UniqueConstraint,
)
from sqlalchemy.types import TypeDecorator

from mlplatform.domain.canonical import plain
from mlplatform.domain.ladder import MARKS

metadata = MetaData()


class Utc(TypeDecorator[datetime]):
    """A moment in UTC, to the microsecond; a time without a zone is refused with ValueError."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        return None if value is None else utc(value)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        # SQLite keeps no zone; PostgreSQL answers in the session's.
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class Json(TypeDecorator[Any]):
    """JSON as text, byte for byte: PostgreSQL's own JSON type would rewrite the numbers that hashes cover."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: Dialect) -> str | None:
        # NaN is kept: a metric may say it. What is hashed was refused before it came here.
        return json.dumps(plain(value), sort_keys=True, separators=(",", ":"), ensure_ascii=False)

    def process_result_value(self, value: str | None, dialect: Dialect) -> Any:
        return None if value is None else json.loads(value)


def utc(moment: datetime) -> datetime:
    """The same moment in UTC; ValueError when it has no zone."""
    if moment.tzinfo is None:
        raise ValueError(f"{moment.isoformat()} has no time zone; times are kept in UTC")
    return moment.astimezone(UTC)


def _number() -> Column[int]:
    """Counts rows in the order of their arrival: ties in time stay in order."""
    return Column("nr", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True)


versions = Table(
    "versions",
    metadata,
    Column("model", Text, primary_key=True),
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("digest", Text, nullable=False),
    Column("runtime", Text, nullable=False),
    Column("run_id", Text, nullable=False),
    Column("created_at", Utc, nullable=False),
    Column("author", Text, nullable=False),
    Column("size_bytes", BigInteger, nullable=False),
    Column("parent", Integer),
    Column("technique", Text),
    Column("cause", Text, nullable=False),
    Column("place", Text, nullable=False),
)
_in_a_stage = versions.c.place.not_in(MARKS)
Index(
    "versions_one_per_stage",
    versions.c.model,
    versions.c.place,
    unique=True,
    sqlite_where=_in_a_stage,
    postgresql_where=_in_a_stage,
)

chains = Table(
    "chains",
    metadata,
    Column("model", Text, primary_key=True),
    Column("head_seq", BigInteger, nullable=False),
    Column("head_hash", Text, nullable=False),
    Column("projected_seq", BigInteger, nullable=False),
)

ledger = Table(
    "ledger",
    metadata,
    Column("model", Text, primary_key=True),
    Column("seq", BigInteger, primary_key=True, autoincrement=False),
    Column("at", Utc, nullable=False),
    Column("kind", Text, nullable=False),
    Column("version", Integer, nullable=False),
    Column("actor", Text, nullable=False),
    Column("verified", Boolean, nullable=False),
    Column("reason", Text, nullable=False),
    Column("stage", Text),
    Column("changes", Json, nullable=False),
    Column("data", Json, nullable=False),
    Column("key", Text),
    Column("prev_hash", Text, nullable=False),
    Column("hash", Text, nullable=False),
    UniqueConstraint("model", "key", name="ledger_key"),
)
Index("ledger_at", ledger.c.model, ledger.c.at, ledger.c.seq)
Index("ledger_kind", ledger.c.model, ledger.c.kind, ledger.c.version, ledger.c.seq)

evaluations = Table(
    "evaluations",
    metadata,
    _number(),
    Column("id", Text, nullable=False, unique=True),
    Column("bundle_digest", Text, nullable=False),
    Column("data_digest", Text, nullable=False),
    Column("rows", BigInteger, nullable=False),
    Column("measurements", Json, nullable=False),
    Column("predictions_path", Text, nullable=False),
    Column("at", Utc, nullable=False),
    Column("details", Json, nullable=False),
)
Index("evaluations_bundle", evaluations.c.bundle_digest, evaluations.c.data_digest, evaluations.c.at)

rollouts = Table(
    "rollouts",
    metadata,
    _number(),
    Column("id", Text, nullable=False, unique=True),
    Column("model", Text, nullable=False),
    Column("version", Integer, nullable=False),
    Column("stage", Text, nullable=False),
    Column("endpoint", Text, nullable=False),
    Column("previous", Integer),
    Column("phase", Text, nullable=False),
    Column("opened_at", Utc, nullable=False),
    Column("actor", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("fence", BigInteger, nullable=False),
    Column("probation_since", Utc),
    Column("because", Text, nullable=False),
)
_moving = rollouts.c.phase.in_(("opened", "shifted"))
Index(
    "rollouts_one_moving",
    rollouts.c.endpoint,
    unique=True,
    sqlite_where=_moving,
    postgresql_where=_moving,
)
Index("rollouts_model", rollouts.c.model, rollouts.c.phase)

windows = Table(
    "windows",
    metadata,
    Column("model", Text, primary_key=True),
    Column("endpoint", Text, primary_key=True),
    Column("start", Utc, primary_key=True),
    Column("end", Utc, nullable=False),
    Column("version", Integer, nullable=False),
    Column("rows", BigInteger, nullable=False),
    Column("labelled", BigInteger, nullable=False),
    Column("signals", Json, nullable=False),
    Column("action", Text, nullable=False),
    Column("because", Text, nullable=False),
    Column("decided_at", Utc, nullable=False),
)
Index("windows_recent", windows.c.model, windows.c.start)

retrainings = Table(
    "retrainings",
    metadata,
    _number(),
    Column("id", Text, nullable=False, unique=True),
    Column("model", Text, nullable=False),
    Column("at", Utc, nullable=False),
    Column("cause", Text, nullable=False),
    Column("outcome", Text, nullable=False),
    Column("run_id", Text),
    Column("version", Integer),
)
Index("retrainings_model", retrainings.c.model, retrainings.c.at)

leases = Table(
    "leases",
    metadata,
    Column("name", Text, primary_key=True),
    Column("owner", Text),
    Column("fence", BigInteger, nullable=False),
    Column("until", Utc, nullable=False),
)

intents = Table(
    "intents",
    metadata,
    _number(),
    Column("key", Text, nullable=False, unique=True),
    Column("flow", Text, nullable=False),
    Column("model", Text, nullable=False),
    Column("payload", Json, nullable=False),
    Column("at", Utc, nullable=False),
)

schedules = Table(
    "schedules",
    metadata,
    Column("name", Text, primary_key=True),
    Column("verb", Text, nullable=False),
    Column("model", Text, nullable=False),
    Column("cron", Text, nullable=False),
    Column("timezone", Text, nullable=False),
    Column("created_at", Utc, nullable=False),
)

firings = Table(
    "firings",
    metadata,
    Column("schedule", Text, primary_key=True),
    Column("due_at", Utc, primary_key=True),
    Column("owner", Text, nullable=False),
    Column("started_at", Utc, nullable=False),
    Column("finished_at", Utc),
    Column("outcome", Text, nullable=False),
)
Index("firings_due", firings.c.due_at)

tokens = Table(
    "tokens",
    metadata,
    Column("id", Text, primary_key=True),
    Column("owner", Text, nullable=False),
    Column("roles", Json, nullable=False),
    Column("scopes", Json, nullable=False),
    Column("secret_hash", Text, nullable=False),
    Column("created_at", Utc, nullable=False),
    Column("created_by", Text, nullable=False),
    Column("expires_at", Utc),
    Column("revoked_at", Utc),
    Column("revoked_by", Text),
)
