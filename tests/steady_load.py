"""Requests at a steady rate, and what the client sees: `python -m tests.steady_load URL FOLDER RATE`.

A process of its own on raw sockets, so that whoever moves the traffic meanwhile does not slow it down. It asks until
its standard input closes, then prints one JSON document (`Seen`). Moments are seconds of `time.monotonic`, which all
processes of a machine share.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

CONNECTIONS = 16
LOOK_SECONDS = 0.002
BODY = b'{"inputs": [[0, 0, 0]]}'


@dataclass
class Seen:
    """`answers`: when asked, when answered, the version in the header, the version that the prediction is of."""

    answers: list[tuple[float, float, int, int]] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    documents: list[tuple[float, int, int]] = field(default_factory=list)
    """When a document was there, its generation, its live version."""
    reports: list[tuple[float, int, int]] = field(default_factory=list)
    """When a worker acknowledged, its pid, the generation."""


class Load:
    """Belongs to one event loop."""

    def __init__(self, url: str, folder: Path, rate: float) -> None:
        self.seen = Seen()
        self._address = urlsplit(url)
        self._folder = folder
        self._period_s = CONNECTIONS / rate
        self._stopping = False
        self._known: dict[str, tuple[int, int]] = {}

    async def run(self) -> Seen:
        """Ask until standard input closes."""
        watching = asyncio.create_task(self._watch())
        asking = [asyncio.create_task(self._ask(i)) for i in range(CONNECTIONS)]
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
        self._stopping = True
        await asyncio.gather(watching, *asking)
        return self.seen

    async def _ask(self, number: int) -> None:
        host, port = self._address.hostname or "", self._address.port or 80
        reader, writer = await asyncio.open_connection(host, port)
        head = f"POST /invocations HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n"
        request = f"{head}Content-Length: {len(BODY)}\r\n\r\n".encode() + BODY
        due = time.monotonic() + self._period_s * number / CONNECTIONS
        while not self._stopping:
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            due += self._period_s
            asked = time.monotonic()
            try:
                writer.write(request)
                status, headers, body = await _read(reader)
            except (OSError, asyncio.IncompleteReadError, ValueError, KeyError) as error:
                self.seen.failures.append(repr(error))
                reader, writer = await asyncio.open_connection(host, port)
                continue
            if status != 200:
                self.seen.failures.append(f"{status} {body!r}")
                continue
            version = int(headers["mlplatform-model"].partition("@")[2])
            (prediction,) = json.loads(body)["predictions"]
            self.seen.answers.append((asked, time.monotonic(), version, round(prediction)))
        writer.close()

    async def _watch(self) -> None:
        while not self._stopping:
            for path in (self._folder / "routes.json", *(self._folder / "workers").glob("*.json")):
                self._look(path)
            await asyncio.sleep(LOOK_SECONDS)

    def _look(self, path: Path) -> None:
        try:
            stat, now = path.stat(), time.monotonic()
            if self._known.get(path.name) == (found := (stat.st_mtime_ns, stat.st_ino)):
                return
            content = json.loads(path.read_bytes())
        except FileNotFoundError:
            return
        self._known[path.name] = found
        if path.name == "routes.json":
            self.seen.documents.append((now, content["generation"], content["routes"][0]["version"]))
        else:
            self.seen.reports.append((now, content["pid"], content["generation"]))


async def _read(reader: asyncio.StreamReader) -> tuple[int, dict[str, str], bytes]:
    head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
    headers = {
        name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:] if line)
    }
    return int(head[0].split()[1]), headers, await reader.readexactly(int(headers["content-length"]))


@contextmanager
def steady_load(url: str, folder: Path, rate: float) -> Iterator[Seen]:
    """Ask while the block runs; what was seen is complete after it."""
    command = [sys.executable, "-m", "tests.steady_load", url, str(folder), str(rate)]
    process = subprocess.Popen(
        command, cwd=Path(__file__).parent.parent, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    seen = Seen()
    try:
        yield seen
    finally:
        output, _ = process.communicate(timeout=60)
    for name, values in json.loads(output).items():
        setattr(seen, name, values)


if __name__ == "__main__":
    load = Load(sys.argv[1], Path(sys.argv[2]), float(sys.argv[3]))
    print(json.dumps(asdict(asyncio.run(load.run()))))
