"""What stands between a server and whoever reads its log, or does not."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from mlplatform.serving.parent.pump import HELD_BYTES, pumped

LINE = b"x" * 999 + b"\n"


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    """Its reading and writing end."""
    read, write = os.pipe()
    yield read, write
    for end in (read, write):
        os.close(end)


def until(condition: Callable[[], object]) -> None:
    deadline, tick = time.monotonic() + 20, threading.Event()
    while not condition():
        assert time.monotonic() < deadline
        tick.wait(0.01)


def test_what_is_written_arrives_whole_and_in_order(pipe: tuple[int, int]) -> None:
    read, write = pipe
    with pumped((write,)) as (pump,):
        for number in range(5):
            os.write(write, f"line {number}\n".encode())
        os.write(write, b"no end")
    assert os.read(read, 1000) == b"line 0\nline 1\nline 2\nline 3\nline 4\nno end"
    assert pump.dropped_lines == 0
    os.write(write, b"as before")
    assert os.read(read, 1000) == b"as before"


def test_a_pipe_that_nobody_reads_keeps_no_writer_waiting_and_drops_whole_lines(
    pipe: tuple[int, int],
) -> None:
    read, write = pipe
    os.set_blocking(read, False)
    got = bytearray()

    def read_some() -> int:
        with suppress(BlockingIOError):
            got.extend(os.read(read, 65_536))
        return got.count(b"\n")

    with pumped((write,)) as (pump,):
        lines = 3 * HELD_BYTES // len(LINE)
        for _ in range(lines):
            os.write(write, LINE)
        until(lambda: pump.dropped_lines > lines // 2)
        until(lambda: read_some() + pump.dropped_lines == lines)
    assert set(bytes(got).split(b"\n")[:-1]) == {LINE[:-1]}


def test_a_reader_that_has_gone_ends_nothing() -> None:
    read, write = os.pipe()
    with pumped((write,)) as (pump,):
        os.close(read)
        os.write(write, LINE)
        until(lambda: pump.dropped_lines == 1)
    os.close(write)


def test_a_file_is_written_as_it_is(tmp_path: Path) -> None:
    with (tmp_path / "log").open("wb") as file, pumped((file.fileno(),)) as pumps:
        assert pumps == []
