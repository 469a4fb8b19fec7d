"""A demo replaces an earlier one that nobody touched, and nothing else."""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path

import pytest

from mlplatform.cli.demo_place import MARK, SETTLES_SECONDS, empty_place, ended
from mlplatform.errors import UsageError


@pytest.fixture
def said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.chdir(tmp_path)
    return []


def made(name: str = "mlplatform-demo", seconds_ago: float = 0.0) -> Path:
    """A demo that has ended, with its files as old as that."""
    folder = Path(name)
    (folder / ".mlplatform" / "servers").mkdir(parents=True)
    for file in ("policy.toml", ".mlplatform/platform.db", ".mlplatform/up.lock"):
        (folder / file).write_text("old")
    ended(folder)
    if seconds_ago:
        (folder / MARK).write_text(str(time.time() - seconds_ago))
    return folder


def test_without_an_earlier_one_it_has_the_plain_name(said: list[str]) -> None:
    assert empty_place(None, said.append) == Path("mlplatform-demo")
    assert said == []


def test_a_demo_that_nobody_touched_is_replaced_every_time(said: list[str]) -> None:
    for _ in range(3):
        made()
        (Path("mlplatform-demo") / "platform.db-wal").touch()  # somebody looked
        assert empty_place(None, said.append) == Path("mlplatform-demo")
        assert not Path("mlplatform-demo").exists()
    assert said == []


def test_one_that_somebody_worked_in_stays_and_the_next_is_made_beside_it(said: list[str]) -> None:
    """Also where a copied file keeps the time of its contents."""
    folder = made(seconds_ago=2 * SETTLES_SECONDS)
    os.utime(folder / "policy.toml", (0, 0))
    assert empty_place(None, said.append) == Path("mlplatform-demo.1")
    assert (folder / "policy.toml").read_text() == "old"
    assert [line.partition(" (")[0] for line in said] == [
        "mlplatform-demo was worked in since its demo ended"
    ]
    made("mlplatform-demo.1")
    assert empty_place(None, said.append) == Path("mlplatform-demo.1")
    with pytest.raises(UsageError, match="was worked in since"):
        empty_place(folder, said.append)


def test_one_in_which_something_runs_stays(said: list[str]) -> None:
    folder = made()
    with (folder / ".mlplatform" / "up.lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert empty_place(None, said.append) == Path("mlplatform-demo.1")
        assert "is in use: something holds .mlplatform/up.lock" in said[0]
        with pytest.raises(UsageError, match="is in use"):
            empty_place(folder, said.append)
    assert (folder / "policy.toml").exists()


@pytest.mark.parametrize("mark", [None, "", "nonsense"])
def test_what_is_no_demo_that_has_ended_stays(mark: str | None, said: list[str]) -> None:
    folder = Path("mine")
    folder.mkdir()
    assert empty_place(folder, said.append) == folder, "it is empty"
    folder.mkdir()
    (folder / "thesis.txt").write_text("all of it")
    if mark is not None:
        (folder / MARK).write_text(mark)
    with pytest.raises(UsageError, match="is not empty") as caught:
        empty_place(folder, said.append)
    assert "mlplatform demo FOLDER" in caught.value.next_step
    assert (folder / "thesis.txt").exists()
