"""What a shadow costs the live path: `python -m tests.bench.bench_shadow`.

One real server, one worker, an ONNX logistic regression over 30 columns; its shadow is another of the same size. Pairs
of neighbouring rounds, one without and one with the shadow, in an order that changes from pair to pair; the cost is the
median of the pairs' differences, with a 95 % interval by the sign test (binomial order statistics).
"""

from __future__ import annotations

import http.client
import json
import statistics
import sys
import tempfile
import threading
import time
from pathlib import Path

from scipy.special import bdtr

from mlplatform.domain.routes import Route, Routes
from mlplatform.plugins.targets.local import LocalTarget
from mlplatform.ports.extensions import ServerSpec
from mlplatform.store.documents import FolderDocuments
from mlplatform.testing.bundles import make_onnx_bundle

COLUMNS = tuple(f"c{i}" for i in range(30))
BODY = json.dumps({"dataframe_split": {"columns": COLUMNS, "data": [[0.1] * 30]}}).encode()
PAIRS, REQUESTS, CONNECTIONS = 30, 1500, (1, 8)


def main() -> int:
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        documents, target = FolderDocuments(root / "servers"), LocalTarget()
        routes = []
        for number in (1, 2):
            manifest = make_onnx_bundle(root / str(number), COLUMNS, seed=number)
            routes.append(Route("m", number, manifest.digest, str(root / str(number))))
        state = target.apply(ServerSpec("m", documents.folder("m")))
        try:
            for connections in CONNECTIONS:
                tell(connections, [pair(documents, routes, state.port, connections, n) for n in range(PAIRS)])
            print(f"shadow rows: {dict(documents.counted('m').shadows)}")
        finally:
            target.stop(documents.folder("m"))
    return 0


def pair(
    documents: FolderDocuments, routes: list[Route], port: int, connections: int, number: int
) -> dict[bool, tuple[float, float, float]]:
    """By whether there is a shadow: p50 and p99 in us, and requests a second."""
    order = (False, True) if number % 2 else (True, False)
    return {shadowed: measured(documents, routes, port, connections, shadowed) for shadowed in order}


def measured(
    documents: FolderDocuments, routes: list[Route], port: int, connections: int, shadowed: bool
) -> tuple[float, float, float]:
    live, other = routes
    beside = Route("m", other.version, other.digest, other.bundle, 0.0, "shadow" if shadowed else "standby")
    published = documents.publish(Routes("m", 0, (live,), (beside,)))
    documents.wait_in_effect("m", published.generation, 20)
    times: list[list[float]] = [[] for _ in range(connections)]
    threads = [threading.Thread(target=ask, args=(port, REQUESTS // connections, own)) for own in times]
    began = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seconds = time.perf_counter() - began
    all_us = sorted(1e6 * t for own in times for t in own)
    return all_us[len(all_us) // 2], all_us[int(len(all_us) * 0.99)], len(all_us) / seconds


def ask(port: int, count: int, times: list[float]) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    for _ in range(count):
        start = time.perf_counter()
        connection.request("POST", "/invocations", BODY, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        answer.read()
        times.append(time.perf_counter() - start)
        assert answer.status == 200
    connection.close()


def tell(connections: int, pairs: list[dict[bool, tuple[float, float, float]]]) -> None:
    print(f"{connections} connections, {len(pairs)} pairs of {REQUESTS} requests")
    for at, what in enumerate(("p50 us", "p99 us", "requests/s")):
        without, beside = (statistics.median(p[shadowed][at] for p in pairs) for shadowed in (False, True))
        middle, low, high = interval([p[True][at] - p[False][at] for p in pairs])
        print(
            f"  {what:<10} {without:8.0f} -> {beside:8.0f}   difference {middle:+.0f} [{low:+.0f}, {high:+.0f}]"
        )


def interval(values: list[float]) -> tuple[float, float, float]:
    """The median, and a 95 % interval of it."""
    ordered, n = sorted(values), len(values)
    reach = max((k for k in range(n // 2) if bdtr(k - 1, n, 0.5) <= 0.025), default=0)
    return statistics.median(ordered), ordered[max(reach - 1, 0)], ordered[n - max(reach, 1)]


if __name__ == "__main__":
    sys.exit(main())
