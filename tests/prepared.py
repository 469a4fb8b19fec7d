"""The small project as a fixture, on SQLite and on PostgreSQL. MLflow's own store is SQLite in both.

A plugin of the tests that need it; each kind of database is prepared once a session.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

import psycopg
import pytest

from tests.databases import BACKENDS
from tests.forking import Forker, forker
from tests.mlflow_stores import make_template
from tests.small_project import Place, SmallProject


@pytest.fixture(scope="session")
def forking() -> Iterator[Forker]:
    with forker() as started:
        yield started


@pytest.fixture(scope="session")
def empty_mlflow(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_template(tmp_path_factory.mktemp("mlflow-template"))


@pytest.fixture(scope="session")
def small_sqlite(
    tmp_path_factory: pytest.TempPathFactory, sqlite_template: Path, empty_mlflow: Path, forking: Forker
) -> SmallProject:
    folder = tmp_path_factory.mktemp("small-sqlite")
    kept = shutil.copyfile(sqlite_template, folder / "kept.db")

    @contextmanager
    def copy() -> Iterator[str]:
        for left in folder.glob("platform.db*"):
            left.unlink()
        yield f"sqlite:///{shutil.copyfile(kept, folder / 'platform.db')}"

    project = SmallProject(folder / "project", empty_mlflow, copy, forking)
    project.prepare(f"sqlite:///{kept}")
    return project


@pytest.fixture(scope="session")
def small_postgresql(
    tmp_path_factory: pytest.TempPathFactory,
    postgres_server: str,
    postgres_template: str,
    empty_mlflow: Path,
    forking: Forker,
) -> SmallProject:
    kept = f"small_{uuid4().hex[:8]}"
    _create(postgres_server, kept, postgres_template)

    @contextmanager
    def copy() -> Iterator[str]:
        name = f"{kept}_{uuid4().hex[:8]}"
        _create(postgres_server, name, kept)
        yield _named(postgres_server, name)
        with psycopg.connect(postgres_server, autocommit=True) as connection:
            connection.execute(f"DROP DATABASE {name} WITH (FORCE)")

    folder = tmp_path_factory.mktemp("small-postgresql")
    project = SmallProject(folder / "project", empty_mlflow, copy, forking)
    project.prepare(_named(postgres_server, kept))
    return project


@pytest.fixture(params=BACKENDS)
def place(request: pytest.FixtureRequest) -> Iterator[Place]:
    """A fresh copy of the project, on each kind of database."""
    project: SmallProject = request.getfixturevalue(f"small_{request.param}")
    with project.copied() as made:
        yield made


@pytest.fixture
def sqlite_place(small_sqlite: SmallProject) -> Iterator[Place]:
    """A fresh copy on SQLite, for what has nothing to do with the database."""
    with small_sqlite.copied() as made:
        yield made


def _create(server: str, name: str, template: str) -> None:
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name} TEMPLATE {template}")


def _named(server: str, database: str) -> str:
    return server.replace("/postgres?", f"/{database}?")
