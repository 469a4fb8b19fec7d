from __future__ import annotations

import subprocess
import sys

import pytest
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import inspect, text
from sqlalchemy.exc import IntegrityError

from mlplatform.domain.ladder import MARKS
from mlplatform.errors import DatabaseUnreachable, NewerDatabase, OlderDatabase
from mlplatform.state.engine import Database
from mlplatform.state.schema import (
    REVISIONS,
    VERSION_TABLE,
    current_revision,
    migrations_folder,
    open_database,
    upgrade,
)
from mlplatform.state.tables import metadata, versions
from mlplatform.testing.clock import START


def test_migrated_schema_is_what_the_code_expects(database):
    def differences(connection):
        options = {"version_table": VERSION_TABLE, "compare_type": True}
        return compare_metadata(MigrationContext.configure(connection, opts=options), metadata)

    assert database.read(differences) == []


def test_comparison_of_schemas_can_fail(database):
    database.write(lambda c: c.execute(text("ALTER TABLE leases DROP COLUMN owner")))
    with pytest.raises(AssertionError):
        test_migrated_schema_is_what_the_code_expects(database)


def test_tables_and_migration_restrict_the_same_rows_to_one_per_stage(database):
    """Alembic does not compare the condition of a partial index."""

    def condition(connection):
        found = {i["name"]: i for t in ("versions", "rollouts") for i in inspect(connection).get_indexes(t)}
        keep = ("versions_one_per_stage", "rollouts_one_moving")
        return [str(v) for n in keep for k, v in found[n]["dialect_options"].items() if k.endswith("_where")]

    stages, moving = database.read(condition)
    assert all(f"'{mark}'" in stages for mark in MARKS)
    assert "'opened'" in moving
    assert "'shifted'" in moving


def test_the_database_itself_refuses_two_versions_in_one_stage(database):
    row = {
        "model": "churn",
        "digest": "d",
        "runtime": "onnx",
        "run_id": "r",
        "created_at": START,
        "author": "a",
        "size_bytes": 1,
        "cause": "manual",
    }

    def put(number, place):
        database.write(lambda c: c.execute(versions.insert().values(**row, number=number, place=place)))

    for number, mark in enumerate((*MARKS, *MARKS, "staging", "production")):
        put(number, mark)
    with pytest.raises(IntegrityError):
        put(99, "staging")


def test_revisions_known_to_the_code_are_those_of_the_migrations():
    config = Config()
    config.set_main_option("script_location", str(migrations_folder()))
    scripts = ScriptDirectory.from_config(config)
    assert [s.revision for s in reversed(list(scripts.walk_revisions()))] == list(REVISIONS)
    assert scripts.get_heads() == [REVISIONS[-1]]


def test_empty_database_has_no_revision_and_upgrading_twice_is_harmless(empty_database_url):
    assert current_revision(empty_database_url) is None
    assert upgrade(empty_database_url) == REVISIONS[-1]
    assert upgrade(empty_database_url) == REVISIONS[-1]
    assert current_revision(empty_database_url) == REVISIONS[-1]


def test_migrations_leave_mlflows_version_table_alone(empty_database_url):
    database = Database(empty_database_url)
    database.write(lambda c: c.execute(text("CREATE TABLE alembic_version (version_num TEXT)")))
    database.write(lambda c: c.execute(text("INSERT INTO alembic_version VALUES ('mlflows')")))
    upgrade(empty_database_url)
    found = database.read(
        lambda c: c.execute(text("SELECT version_num FROM alembic_version")).scalars().all()
    )
    database.close()
    assert found == ["mlflows"]


def test_embedded_database_is_made_when_it_is_opened(tmp_path):
    url = f"sqlite:///{tmp_path / '.mlplatform' / 'platform.db'}"
    open_database(url).close()
    assert current_revision(url) == REVISIONS[-1]


def test_servers_database_without_our_tables_is_refused_with_the_command_that_makes_them(empty_postgres_url):
    with pytest.raises(OlderDatabase) as caught:
        open_database(empty_postgres_url)
    assert "mlplatform db upgrade" in caught.value.next_step
    assert current_revision(empty_postgres_url) is None


@pytest.mark.parametrize("use", [open_database, upgrade])
def test_database_of_a_newer_release_is_refused_and_left_alone(database_url, use):
    database = Database(database_url)
    database.write(lambda c: c.execute(text(f"UPDATE {VERSION_TABLE} SET version_num = '0999'")))
    database.close()
    with pytest.raises(NewerDatabase, match="schema 0999"):
        use(database_url)
    assert current_revision(database_url) == "0999"


def test_migration_that_dies_in_the_middle_leaves_nothing_behind(empty_database_url, monkeypatch):
    from alembic.operations import Operations

    create_index = Operations.create_index

    def die_at_the_last(self, name, *rest, **more):
        if name == "firings_due":
            raise KeyboardInterrupt
        return create_index(self, name, *rest, **more)

    with monkeypatch.context() as patched:
        patched.setattr(Operations, "create_index", die_at_the_last)
        with pytest.raises(KeyboardInterrupt):
            upgrade(empty_database_url)
    database = Database(empty_database_url)
    assert database.read(lambda c: inspect(c).get_table_names()) == []
    database.close()
    assert upgrade(empty_database_url) == REVISIONS[-1]


def test_first_migration_can_be_taken_back(empty_database_url):
    from alembic import command

    upgrade(empty_database_url)
    config = Config()
    config.set_main_option("script_location", str(migrations_folder()))
    database = Database(empty_database_url)

    def down(connection):
        config.attributes["connection"] = connection
        command.downgrade(config, "base")

    database.write(down)
    assert database.read(lambda c: inspect(c).get_table_names()) == [VERSION_TABLE]
    database.close()


def test_opening_an_existing_database_does_not_load_alembic(sqlite_url):
    code = (
        "import sys; from mlplatform.state.schema import open_database;"
        f" open_database({sqlite_url!r}).close(); sys.exit('alembic' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    ("url", "cause"),
    [
        ("nonsense", "not a database URL"),
        ("mysql://x:geheim@h/d", "mysql is not supported"),
        ("sqlite://", "in memory"),
        ("postgresql://x:geheim@127.0.0.1:1/d", "refused"),
        ("postgresql://x:geheim@/d?host=/nowhere", "No such file"),
    ],
)
def test_database_that_cannot_be_used_is_named_without_its_password(url, cause):
    with pytest.raises(DatabaseUnreachable) as caught:
        open_database(url)
    assert cause in str(caught.value)
    assert "geheim" not in str(caught.value)


def test_folder_that_does_not_exist_and_file_that_is_no_database_are_refused(tmp_path):
    with pytest.raises(DatabaseUnreachable, match="unable to open database file"):
        open_database(f"sqlite:///{tmp_path}/no/such/platform.db")
    (tmp_path / "junk.db").write_bytes(b"this is not a database" * 100)
    with pytest.raises(DatabaseUnreachable, match="not a database"):
        open_database(f"sqlite:///{tmp_path}/junk.db")
