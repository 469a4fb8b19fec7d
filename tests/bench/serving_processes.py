"""A server under measurement: its processes, their CPU time and memory, and how long it took to its first answer.

Linux: read from /proc. Proportional memory (PSS) counts a page that several processes share by its part.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from tests.bench.serving_load import Target

FIRST_ANSWER_SECONDS = 120.0
_TICK_S = 1 / os.sysconf("SC_CLK_TCK")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass
class Server:
    """Started processes, the first of which is the parent of the others, or their equal."""

    name: str
    target: Target
    processes: Sequence[subprocess.Popen[bytes]]
    start_s: float = 0.0

    def cpu_s(self) -> float:
        """User and system time of every process so far."""
        return sum(_cpu_s(pid) for pid in self._tree())

    def worker_mb(self) -> float:
        """Proportional memory of one of the processes that answer."""
        tree = self._tree()
        leaves = [pid for pid in tree if not _children(pid) and "resource_tracker" not in _command(pid)]
        sizes = [size for size in map(_pss_mb, leaves) if size]  # those that have just ended have none
        return sum(sizes) / max(1, len(sizes))

    def all_mb(self) -> float:
        return sum(map(_pss_mb, self._tree()))

    def stop(self) -> None:
        tree = self._tree()
        for process in self.processes:
            process.terminate()
        for process in self.processes:
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        for pid in tree:  # workers that outlived their parent
            if "python" in _command(pid):
                _kill(pid)

    def _tree(self) -> list[int]:
        found: list[int] = []
        waiting = [process.pid for process in self.processes]
        while waiting:
            pid = waiting.pop()
            found.append(pid)
            waiting += _children(pid)
        return found


def start(
    name: str, target: Target, commands: Sequence[Sequence[str]], env: Mapping[str, str], log: Path
) -> Server:
    """Start it and wait for its first right answer. Raises RuntimeError, with its log, when there is none."""
    with log.open("ab") as output:
        begun = time.perf_counter()
        processes = [
            subprocess.Popen(c, env={**os.environ, **env}, stdout=output, stderr=output) for c in commands
        ]
    server = Server(name, target, processes)
    while not _answers(target):
        ended = [p for p in processes if p.poll() is not None]
        if ended or time.perf_counter() - begun > FIRST_ANSWER_SECONDS:
            server.stop()
            raise RuntimeError(f"{name} does not answer:\n{log.read_text()[-2000:]}")
        time.sleep(0.01)
    server.start_s = time.perf_counter() - begun
    return server


def _answers(target: Target) -> bool:
    request = urllib.request.Request(
        f"http://127.0.0.1:{target.port}{target.path}",
        data=target.body.read_bytes(),
        headers=dict(target.headers),
        method="POST",
    )
    try:
        with urllib.request.urlopen(request, timeout=20) as response:
            return bool(response.status == 200)
    except urllib.error.HTTPError as error:
        if error.code < 500 and error.code != 404:
            raise RuntimeError(f"{target}: {error.code} {error.read()[:500]!r}") from error
        return False
    except OSError:
        return False


def _children(pid: int) -> list[int]:
    try:
        tasks = list(Path(f"/proc/{pid}/task").iterdir())
        return [int(child) for task in tasks for child in (task / "children").read_text().split()]
    except OSError:
        return []


def _cpu_s(pid: int) -> float:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) * _TICK_S


def _pss_mb(pid: int) -> float:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0.0
    return sum(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1024


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
    except OSError:
        return ""


def _kill(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
