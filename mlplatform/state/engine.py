"""One database, SQLite or PostgreSQL: units of work that are retried, and errors in our own words."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, IntegrityError, NoSuchModuleError, ProgrammingError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from mlplatform.errors import DatabaseUnreachable, MissingPackage

T = TypeVar("T")
LOCK_WAIT_SECONDS = 15.0
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.01, 0.5
BUSY, LOCKED = 5, 6
PASSING_SQLSTATES = frozenset(
    {
        "40001",  # serialization failure
        "40P01",  # deadlock
        "55P03",  # lock not available
        "57P01",  # the server shuts down
        "57P02",
        "57P03",  # the server starts up
        "53300",  # too many connections
    }
)
_READ: dict[str, dict[str, Any]] = {
    "sqlite": {"begin": "BEGIN"},
    # One snapshot for all statements of a unit, as SQLite gives it: a reader never sees half of a promotion.
    "postgresql": {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True},
}
_WRITE: dict[str, dict[str, Any]] = {"sqlite": {"begin": "BEGIN IMMEDIATE"}, "postgresql": {}}


class Database:
    """Where our own state lives. `open_database` in `mlplatform.state.schema` also checks the schema.

    A unit of work is a function of a connection. It is run again after a lock, a deadlock or a lost
    connection, also when only the reply to COMMIT was lost: so running it twice must be harmless.
    IntegrityError is left to the caller.
    """

    def __init__(self, url: str, lock_wait_seconds: float = LOCK_WAIT_SECONDS) -> None:
        self._lock_wait_seconds = lock_wait_seconds
        self._engine = _make_engine(_parse(url), lock_wait_seconds)

    @property
    def dialect(self) -> str:
        return self._engine.dialect.name

    @property
    def shown_url(self) -> str:
        """The URL without its password."""
        return self._engine.url.render_as_string(hide_password=True)

    def read(self, unit: Callable[[Connection], T]) -> T:
        """Run a unit that changes nothing, on one snapshot. Raises DatabaseUnreachable."""
        return self._run(unit, _READ[self.dialect])

    def write(self, unit: Callable[[Connection], T]) -> T:
        """Run a unit in one transaction; an exception undoes it. Raises DatabaseUnreachable."""
        return self._run(unit, _WRITE[self.dialect])

    def close(self) -> None:
        self._engine.dispose()

    def _run(self, unit: Callable[[Connection], T], options: Mapping[str, Any]) -> T:
        deadline = time.monotonic() + self._lock_wait_seconds
        for pause in _pauses():
            try:
                with self._engine.connect() as connection:
                    connection.execution_options(**options)
                    with connection.begin():
                        return unit(connection)
            except (IntegrityError, ProgrammingError):
                raise
            except (DBAPIError, PoolTimeout) as error:
                if not _passing(error) or time.monotonic() + pause > deadline:
                    raise DatabaseUnreachable(url=self.shown_url, cause=_cause(error)) from error
            time.sleep(pause)
        raise AssertionError("the pauses never end")


@contextmanager
def closing(database: Database) -> Iterator[Database]:
    """The database, closed at the end."""
    try:
        yield database
    finally:
        database.close()


# --- making an engine ---------------------------------------------------------------------------------------


def _parse(text: str) -> URL:
    try:
        url = make_url(text)
    except ArgumentError as error:
        raise DatabaseUnreachable(url=text, cause="this is not a database URL") from error
    backend = url.get_backend_name()
    if backend in ("postgresql", "postgres"):
        return url.set(drivername="postgresql+psycopg")
    if backend != "sqlite":
        raise DatabaseUnreachable(
            url=url.render_as_string(hide_password=True),
            cause=f"{backend} is not supported; use sqlite:///FILE or postgresql://USER@HOST/NAME",
        )
    if not url.database or url.database == ":memory:":
        raise DatabaseUnreachable(url=text, cause="a database in memory would be lost with the process")
    return url


def _make_engine(url: URL, lock_wait_seconds: float) -> Engine:
    if url.get_backend_name() == "sqlite":
        engine = create_engine(url, connect_args={"timeout": lock_wait_seconds})
        event.listen(engine, "connect", _prepare_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
        return engine
    try:
        engine = create_engine(url, connect_args={"connect_timeout": 5})
    except (ImportError, NoSuchModuleError) as error:
        raise MissingPackage(what="A PostgreSQL database", package="psycopg[binary]") from error
    event.listen(engine, "connect", _prepare_postgresql(lock_wait_seconds))
    return engine


def _prepare_sqlite(connection: Any, record: object) -> None:
    # Without this the driver begins transactions by itself, and never with IMMEDIATE.
    connection.isolation_level = None
    if connection.execute("PRAGMA journal_mode").fetchone()[0] != "wal":
        connection.execute("PRAGMA journal_mode = WAL")
    # A power cut must not take back a promotion that was reported as done.
    connection.execute("PRAGMA synchronous = FULL")


def _begin_sqlite(connection: Connection) -> None:
    connection.exec_driver_sql(connection.get_execution_options().get("begin", "BEGIN"))


def _prepare_postgresql(lock_wait_seconds: float) -> Callable[[Any, object], None]:
    def prepare(connection: Any, record: object) -> None:
        with connection.cursor() as cursor:
            cursor.execute(f"SET lock_timeout = {int(lock_wait_seconds * 1000)}")
        connection.commit()

    return prepare


def folder_of(url: str) -> Path | None:
    """The folder of an embedded database; None for a server's."""
    parsed = _parse(url)
    return Path(parsed.database or "").parent if parsed.get_backend_name() == "sqlite" else None


# --- errors -------------------------------------------------------------------------------------------------


def _passing(error: DBAPIError | PoolTimeout) -> bool:
    """Whether the same unit may succeed in a moment."""
    if isinstance(error, PoolTimeout):
        return False
    if error.connection_invalidated:
        return True
    code = getattr(error.orig, "sqlite_errorcode", None)
    if code is not None:
        # The low byte is the kind; the rest says which of its forms.
        return code & 0xFF in (BUSY, LOCKED)
    return getattr(error.orig, "sqlstate", None) in PASSING_SQLSTATES


def _cause(error: DBAPIError | PoolTimeout) -> str:
    text = str(error.orig if isinstance(error, DBAPIError) else error).strip()
    return text.splitlines()[0] if text else type(error).__name__


def _pauses() -> Iterator[float]:
    """Longer and longer, and never in step with another process."""
    longest = FIRST_PAUSE_SECONDS
    while True:
        yield random.uniform(longest / 2, longest)
        longest = min(longest * 2, LONGEST_PAUSE_SECONDS)
