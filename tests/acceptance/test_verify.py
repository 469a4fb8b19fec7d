"""`mlplatform verify`: what was done to the database behind our back is found, also by an older copy of all of it."""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.bare_project import MODEL, bare_project
from tests.forking import Forker
from tests.small_project import Place

PROMOTE = ("--break-glass", "--reason", "because")


@pytest.fixture(scope="module")
def made(
    tmp_path_factory: pytest.TempPathFactory, sqlite_template: Path, empty_mlflow: Path, forking: Forker
) -> Iterator[Place]:
    """Three candidates, of which the first was promoted: four entries."""
    folder = tmp_path_factory.mktemp("verify")
    url = f"sqlite:///{shutil.copyfile(sqlite_template, folder / 'platform.db')}"
    with bare_project(folder / "churn", empty_mlflow, url, forking, 3) as place:
        place.done("promote", f"{MODEL}@1", "staging", *PROMOTE)
        yield place


@pytest.fixture
def project(made: Place) -> Iterator[Place]:
    kept = copied(made)
    yield made
    put_back(made, kept)


def database(place: Place) -> Path:
    return place.folder.parent / "platform.db"


def copied(place: Place) -> Path:
    """Somebody's copy of the whole database as it is now."""
    path = place.folder.parent / "copy.db"
    path.unlink(missing_ok=True)
    with closing(sqlite3.connect(database(place))) as source:
        source.execute("VACUUM INTO ?", [str(path)])
    return path.rename(path.with_name(f"copy-{path.stat().st_ino}.db"))


def put_back(place: Place, copy: Path) -> None:
    for left in database(place).parent.glob("platform.db*"):
        left.unlink()
    shutil.copyfile(copy, database(place))


def changed(place: Place, statement: str) -> None:
    with closing(sqlite3.connect(database(place))) as connection:
        connection.execute(statement)
        connection.commit()


def test_whole_ledger_holds_with_all_models_or_one(project: Place) -> None:
    said = project.done("verify")
    assert said.startswith("4 entries of 1 model hold (")
    assert "entries/s)" in said
    told = project.told("verify", MODEL)
    assert (told["entries"], told["breaks"], told["heads"][0]["seq"]) == (4, [], 4)


def test_ledger_is_verified_whatever_became_of_the_policy(project: Place) -> None:
    policy = project.folder / "policy.toml"
    text = policy.read_text()
    for damaged in ("no toml at all [", 'model = "another"'):
        policy.write_text(damaged)
        assert project.told("verify", MODEL)["entries"] == 4
    policy.unlink()
    project.done("verify")
    policy.write_text(text)


@pytest.mark.parametrize(
    ("statement", "seq", "why"),
    [
        ("UPDATE ledger SET reason = 'all good' WHERE seq = 4", 4, "was changed after it was written"),
        ("UPDATE ledger SET verified = 1 WHERE seq = 2", 2, "was changed after it was written"),
        ("DELETE FROM ledger WHERE seq = 2", 3, "expected entry 2"),
        ("DELETE FROM ledger WHERE seq = 4", 3, "the chain should end with entry 4"),
        (
            "UPDATE versions SET place = 'production' WHERE number = 3",
            4,
            "leaves version 3 in CANDIDATE, but",
        ),
        ("UPDATE versions SET digest = 'forged' WHERE number = 2", 2, "registered version 2 with digest"),
    ],
)
def test_first_bad_row_is_named(project: Place, statement: str, seq: int, why: str) -> None:
    changed(project, statement)
    told = project.told("verify", code=3)["breaks"][0]
    assert (told["model"], told["seq"]) == (MODEL, seq)
    assert told["why"].startswith(why)
    said = project.done("verify", code=3)
    assert why in said
    assert "of 1 model do not hold" in said


def test_heads_are_recorded_then_compared_and_carried_on(project: Place, tmp_path: Path) -> None:
    heads = tmp_path / "heads.jsonl"
    assert f"{heads} is new: there was no earlier head" in project.done("verify", "--head", str(heads))
    first = json.loads(heads.read_text())
    assert (first["model"], first["seq"]) == (MODEL, 4)
    project.done("promote", f"{MODEL}@2", "staging", *PROMOTE)
    told = project.told("verify", "--head", str(heads))
    assert (told["compared"], told["written"]) == (1, True)
    assert json.loads(heads.read_text())["seq"] == 5


def test_older_copy_of_the_database_is_found_by_the_heads_and_they_stay(
    project: Place, tmp_path: Path
) -> None:
    heads, older = tmp_path / "heads.jsonl", copied(project)
    project.done("promote", f"{MODEL}@2", "staging", *PROMOTE)
    project.done("verify", "--head", str(heads))
    recorded = heads.read_bytes()
    put_back(project, older)
    assert project.told("verify")["breaks"] == [], "in itself an older copy is whole"
    said = project.done("verify", "--head", str(heads), code=3)
    assert "the chain no longer contains the recorded entry 5" in said
    assert f"{heads} stays as it is" in said
    assert heads.read_bytes() == recorded


def test_what_cannot_be_verified_is_said_in_one_line(project: Place, tmp_path: Path) -> None:
    assert "Did you mean 'churn'?" in project.done("verify", "chrun", code=2)
    wrong = tmp_path / "notes.txt"
    wrong.write_text("hello\n")
    assert f"line 1 of {wrong} is no head of a chain" in project.done("verify", "--head", str(wrong), code=2)
    assert wrong.read_text() == "hello\n"
    nowhere = tmp_path / "missing" / "heads.jsonl"
    assert f"{nowhere} cannot be written" in project.done("verify", "--head", str(nowhere), code=6)
