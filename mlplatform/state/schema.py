"""Which schema a database has, and bringing it up to ours. Alembic is loaded only when needed."""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import Connection, inspect, text

from mlplatform.errors import NewerDatabase, OlderDatabase
from mlplatform.state.engine import LOCK_WAIT_SECONDS, Database, closing, folder_of

VERSION_TABLE = "mlplatform_alembic_version"
"""Not Alembic's default: a foreign row in `alembic_version` breaks every MLflow client of that database."""
REVISIONS = ("0001", "0002")
"""Oldest first. Named here as well as in `migrations/` so that opening a database does not load Alembic."""
MIGRATION_LOCK = 0x6D6C706C
MIGRATION_WAIT_SECONDS = 60.0


def open_database(url: str, lock_wait_seconds: float = LOCK_WAIT_SECONDS) -> Database:
    """A database with our schema. An embedded one (SQLite) is made or brought up to date on the way.

    Raises DatabaseUnreachable, NewerDatabase, and OlderDatabase when a server's database wants
    `mlplatform db upgrade`.
    """
    _make_folder(url)
    database = Database(url, lock_wait_seconds)
    try:
        found = database.read(_revision)
        if found != REVISIONS[-1]:
            _catch_up(database, url, found)
    except BaseException:
        database.close()
        raise
    return database


def upgrade(url: str) -> str:
    """Bring the schema up to ours, in one transaction; the revision it has then.

    Safe from several processes at once: the first one migrates, the others find the work done. Raises
    NewerDatabase, DatabaseUnreachable.
    """
    _make_folder(url)
    with closing(Database(url, MIGRATION_WAIT_SECONDS)) as database:
        database.write(_upgrade)
    return REVISIONS[-1]


def current_revision(url: str) -> str | None:
    """The revision of a database, None for an empty one."""
    with closing(Database(url)) as database:
        return database.read(_revision)


def migrations_folder() -> Path:
    """In an installed package `mlplatform/_migrations`, in a checkout `migrations/` beside the package."""
    package = Path(__file__).resolve().parent.parent
    installed = package / "_migrations"
    return installed if installed.is_dir() else package.parent / "migrations"


# --- helpers ------------------------------------------------------------------------------------------------


def _make_folder(url: str) -> None:
    # One level only: a mistyped path should fail, not make folders.
    folder = folder_of(url)
    if folder and folder.parent.is_dir():
        folder.mkdir(exist_ok=True)


def _catch_up(database: Database, url: str, found: str | None) -> None:
    _refuse_newer(found)
    if database.dialect != "sqlite":
        raise OlderDatabase(url=database.shown_url, found=found or "none", known=REVISIONS[-1])
    upgrade(url)


def _refuse_newer(found: str | None) -> None:
    if found is not None and found not in REVISIONS:
        raise NewerDatabase(found=found, known=REVISIONS[-1])


def _revision(connection: Connection) -> str | None:
    if not inspect(connection).has_table(VERSION_TABLE):
        return None
    found: str | None = connection.execute(text(f"SELECT version_num FROM {VERSION_TABLE}")).scalar()
    return found


def _upgrade(connection: Connection) -> None:
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": MIGRATION_LOCK})
    found = _revision(connection)
    _refuse_newer(found)
    if found == REVISIONS[-1]:
        return
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(migrations_folder()).replace("%", "%%"))
    config.attributes["connection"] = connection
    command.upgrade(config, "head")
