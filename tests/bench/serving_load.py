"""Load on a server: `wrk` where it is installed (or named by WRK), else a client of our own.

Both keep a number of connections, each with one request at a time, in a process of their own. Ours takes three times
the CPU of `wrk`, and what it takes the server misses: compare figures of one client only.

    python -m tests.bench.serving_load HOST PORT PATH BODY HEADERS CONNECTIONS SECONDS
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
import time
from array import array
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Target:
    """A request that is sent again and again."""

    port: int
    path: str
    body: Path
    headers: tuple[tuple[str, str], ...] = (("Content-Type", "application/json"),)

    def lines(self) -> str:
        return "\n".join(f"{name}: {value}" for name, value in self.headers)


@dataclass(frozen=True)
class Load:
    """What came of it."""

    requests: int
    failed: int
    seconds: float
    p50_ms: float
    p99_ms: float

    @property
    def per_second(self) -> float:
        return self.requests / self.seconds


def wrk() -> str | None:
    return os.environ.get("WRK") or shutil.which("wrk")


def load(target: Target, connections: int, seconds: float) -> Load:
    """Raises CalledProcessError when nothing could be measured."""
    if program := wrk():
        command = [program, "-t1", f"-c{connections}", f"-d{max(1, round(seconds))}s", "--timeout", "20s"]
        command += ["-s", str(HERE / "serving_post.lua"), f"http://127.0.0.1:{target.port}{target.path}"]
        env = {**os.environ, "BENCH_BODY": str(target.body), "BENCH_HEADERS": target.lines()}
    else:
        command = [
            sys.executable,
            "-m",
            "tests.bench.serving_load",
            "127.0.0.1",
            str(target.port),
            target.path,
        ]
        command += [str(target.body), target.lines(), str(connections), str(seconds)]
        env = dict(os.environ)
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
    return Load(**json.loads(done.stdout.splitlines()[-1]))


class _Client(asyncio.Protocol):
    """One connection."""

    def __init__(self, request: bytes, latencies: array[float], failures: array[float]) -> None:
        self._request, self._latencies, self._failures = request, latencies, failures
        self._held, self._wanted = b"", 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self._ask()

    def _ask(self) -> None:
        self._held, self._wanted = b"", 0
        self._sent = time.perf_counter()
        self._transport.write(self._request)  # type: ignore[attr-defined]

    def data_received(self, data: bytes) -> None:
        self._held = held = self._held + data if self._held else data
        if not self._wanted:
            if (end := held.find(b"\r\n\r\n")) < 0:
                return
            at = held[:end].lower().find(b"content-length:") + 15
            self._wanted = end + 4 + int(held[at : held.find(b"\r", at)])
        if len(held) >= self._wanted:
            fine = held.startswith(b"HTTP/1.1 200")
            (self._latencies if fine else self._failures).append(time.perf_counter() - self._sent)
            self._ask()


async def _run(host: str, port: int, request: bytes, connections: int, seconds: float) -> Load:
    latencies, failures = array("d"), array("d")
    loop = asyncio.get_running_loop()
    begun = time.perf_counter()
    made = [
        await loop.create_connection(lambda: _Client(request, latencies, failures), host, port)
        for _ in range(connections)
    ]
    await asyncio.sleep(seconds)
    took = time.perf_counter() - begun
    for transport, _ in made:
        transport.abort()
    ordered = sorted(latencies) or [float("nan")]
    p50, p99 = (ordered[int(len(ordered) * q)] * 1e3 for q in (0.5, 0.99))
    return Load(len(latencies), len(failures), took, p50, p99)


def main(arguments: list[str]) -> None:
    import uvloop

    host, port, path, body_path, lines, connections, seconds = arguments
    body = Path(body_path).read_bytes()
    head = [f"POST {path} HTTP/1.1", f"Host: {host}", f"Content-Length: {len(body)}", *lines.split("\n")]
    request = "\r\n".join(head).encode() + b"\r\n\r\n" + body
    found = uvloop.run(_run(host, int(port), request, int(connections), float(seconds)))
    print(json.dumps(found.__dict__))


if __name__ == "__main__":
    main(sys.argv[1:])
