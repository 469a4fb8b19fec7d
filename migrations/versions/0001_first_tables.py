"""first tables"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

UTC = sa.DateTime(timezone=True)
IN_A_STAGE = sa.text("place NOT IN ('CANDIDATE', 'STANDBY', 'RETIRED', 'REJECTED', 'ROLLED_BACK')")
MOVING = sa.text("phase IN ('opened', 'shifted')")


def upgrade() -> None:
    _versions()
    _ledger()
    _evaluations()
    _rollouts()
    _windows()
    _retrainings()
    _leases_and_intents()
    _schedules()


def downgrade() -> None:
    for table in (
        "firings",
        "schedules",
        "intents",
        "leases",
        "retrainings",
        "windows",
        "rollouts",
        "evaluations",
        "ledger",
        "chains",
        "versions",
    ):
        op.drop_table(table)


def _number() -> sa.Column[int]:
    kind = sa.BigInteger().with_variant(sa.Integer, "sqlite")
    return sa.Column("nr", kind, primary_key=True, autoincrement=True)


def _versions() -> None:
    op.create_table(
        "versions",
        sa.Column("model", sa.Text, primary_key=True),
        sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("digest", sa.Text, nullable=False),
        sa.Column("runtime", sa.Text, nullable=False),
        sa.Column("run_id", sa.Text, nullable=False),
        sa.Column("created_at", UTC, nullable=False),
        sa.Column("author", sa.Text, nullable=False),
        sa.Column("size_bytes", sa.BigInteger, nullable=False),
        sa.Column("parent", sa.Integer),
        sa.Column("technique", sa.Text),
        sa.Column("cause", sa.Text, nullable=False),
        sa.Column("place", sa.Text, nullable=False),
    )
    op.create_index(
        "versions_one_per_stage",
        "versions",
        ["model", "place"],
        unique=True,
        sqlite_where=IN_A_STAGE,
        postgresql_where=IN_A_STAGE,
    )


def _ledger() -> None:
    op.create_table(
        "chains",
        sa.Column("model", sa.Text, primary_key=True),
        sa.Column("head_seq", sa.BigInteger, nullable=False),
        sa.Column("head_hash", sa.Text, nullable=False),
        sa.Column("projected_seq", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "ledger",
        sa.Column("model", sa.Text, primary_key=True),
        sa.Column("seq", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("at", UTC, nullable=False),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("actor", sa.Text, nullable=False),
        sa.Column("verified", sa.Boolean, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("stage", sa.Text),
        sa.Column("changes", sa.Text, nullable=False),
        sa.Column("data", sa.Text, nullable=False),
        sa.Column("key", sa.Text),
        sa.Column("prev_hash", sa.Text, nullable=False),
        sa.Column("hash", sa.Text, nullable=False),
        sa.UniqueConstraint("model", "key", name="ledger_key"),
    )
    op.create_index("ledger_at", "ledger", ["model", "at", "seq"])
    op.create_index("ledger_kind", "ledger", ["model", "kind", "version", "seq"])


def _evaluations() -> None:
    op.create_table(
        "evaluations",
        _number(),
        sa.Column("id", sa.Text, nullable=False, unique=True),
        sa.Column("bundle_digest", sa.Text, nullable=False),
        sa.Column("data_digest", sa.Text, nullable=False),
        sa.Column("rows", sa.BigInteger, nullable=False),
        sa.Column("measurements", sa.Text, nullable=False),
        sa.Column("predictions_path", sa.Text, nullable=False),
        sa.Column("at", UTC, nullable=False),
        sa.Column("details", sa.Text, nullable=False),
    )
    op.create_index("evaluations_bundle", "evaluations", ["bundle_digest", "data_digest", "at"])


def _rollouts() -> None:
    op.create_table(
        "rollouts",
        _number(),
        sa.Column("id", sa.Text, nullable=False, unique=True),
        sa.Column("model", sa.Text, nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("stage", sa.Text, nullable=False),
        sa.Column("endpoint", sa.Text, nullable=False),
        sa.Column("previous", sa.Integer),
        sa.Column("phase", sa.Text, nullable=False),
        sa.Column("opened_at", UTC, nullable=False),
        sa.Column("actor", sa.Text, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("fence", sa.BigInteger, nullable=False),
        sa.Column("probation_since", UTC),
        sa.Column("because", sa.Text, nullable=False),
    )
    op.create_index(
        "rollouts_one_moving",
        "rollouts",
        ["endpoint"],
        unique=True,
        sqlite_where=MOVING,
        postgresql_where=MOVING,
    )
    op.create_index("rollouts_model", "rollouts", ["model", "phase"])


def _windows() -> None:
    op.create_table(
        "windows",
        sa.Column("model", sa.Text, primary_key=True),
        sa.Column("endpoint", sa.Text, primary_key=True),
        sa.Column("start", UTC, primary_key=True),
        sa.Column("end", UTC, nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("rows", sa.BigInteger, nullable=False),
        sa.Column("labelled", sa.BigInteger, nullable=False),
        sa.Column("signals", sa.Text, nullable=False),
        sa.Column("action", sa.Text, nullable=False),
        sa.Column("because", sa.Text, nullable=False),
        sa.Column("decided_at", UTC, nullable=False),
    )
    op.create_index("windows_recent", "windows", ["model", "start"])


def _retrainings() -> None:
    op.create_table(
        "retrainings",
        _number(),
        sa.Column("id", sa.Text, nullable=False, unique=True),
        sa.Column("model", sa.Text, nullable=False),
        sa.Column("at", UTC, nullable=False),
        sa.Column("cause", sa.Text, nullable=False),
        sa.Column("outcome", sa.Text, nullable=False),
        sa.Column("run_id", sa.Text),
        sa.Column("version", sa.Integer),
    )
    op.create_index("retrainings_model", "retrainings", ["model", "at"])


def _leases_and_intents() -> None:
    op.create_table(
        "leases",
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("owner", sa.Text),
        sa.Column("fence", sa.BigInteger, nullable=False),
        sa.Column("until", UTC, nullable=False),
    )
    op.create_table(
        "intents",
        _number(),
        sa.Column("key", sa.Text, nullable=False, unique=True),
        sa.Column("flow", sa.Text, nullable=False),
        sa.Column("model", sa.Text, nullable=False),
        sa.Column("payload", sa.Text, nullable=False),
        sa.Column("at", UTC, nullable=False),
    )


def _schedules() -> None:
    op.create_table(
        "schedules",
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("verb", sa.Text, nullable=False),
        sa.Column("model", sa.Text, nullable=False),
        sa.Column("cron", sa.Text, nullable=False),
        sa.Column("timezone", sa.Text, nullable=False),
        sa.Column("created_at", UTC, nullable=False),
    )
    op.create_table(
        "firings",
        sa.Column("schedule", sa.Text, primary_key=True),
        sa.Column("due_at", UTC, primary_key=True),
        sa.Column("owner", sa.Text, nullable=False),
        sa.Column("started_at", UTC, nullable=False),
        sa.Column("finished_at", UTC),
        sa.Column("outcome", sa.Text, nullable=False),
    )
    op.create_index("firings_due", "firings", ["due_at"])
