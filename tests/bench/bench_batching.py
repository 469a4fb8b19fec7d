"""Our model server with batching against itself without, in interleaved rounds; prints a Markdown table.

    python -m tests.bench.bench_batching [--quick] [--rounds N] [--seconds S] [--workers N] [--connections N ...]
        [--only MODEL]

Two servers run beside each other, and one at a time is loaded: the same model, rows and settings. The one without has a
bundle whose sample is a single row. Whether rows may be answered together cannot be seen on that, so they never are;
nothing else differs. Ratios are taken within a round, and the order turns from round to round. They are told as the
median and a 95 % interval of it by the sign test (the whole range where there are less than six rounds). On a busy
machine look at the CPU time that a request takes: it hardly depends on what else runs.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from urllib.request import urlopen

from mlplatform.domain.bundle import FileEntry, Manifest
from tests.bench import serving_models as models
from tests.bench.bench_serving import ours
from tests.bench.bench_shadow import interval
from tests.bench.serving_load import Load, load, wrk
from tests.bench.serving_models import Made
from tests.bench.serving_processes import Server

CONNECTIONS = (1, 2, 4, 8, 16, 64)
SLOWER = 0.95
MODELS: Mapping[str, Callable[[Path], Made]] = {
    "logistic": models.logistic,
    "forest": models.forest,
    "mlp": models.mlp,
}


@dataclass(frozen=True)
class Plan:
    rounds: int = 9
    seconds: float = 3.0
    workers: int = 1
    """One: it takes a core, and the load the other."""
    connections: Sequence[int] = CONNECTIONS


@dataclass(frozen=True)
class Pair:
    """One round."""

    batched: Load
    alone: Load
    cpu: float
    """CPU time of the server for a request, with batching against without."""
    rows_a_run: float
    """Rows that the model answered in one run, with batching."""


def unbatched(made: Made, folder: Path) -> Made:
    """The same model with a sample of one row."""
    shutil.copytree(made.bundle, folder)
    sample = {name: values[:1] for name, values in json.loads((folder / "sample.json").read_bytes()).items()}
    content = json.dumps(sample).encode()
    (folder / "sample.json").write_bytes(content)
    manifest = Manifest.decode((folder / "manifest.json").read_bytes())
    entry = FileEntry(hashlib.sha256(content).hexdigest(), len(content))
    manifest = replace(manifest, files={**manifest.files, "sample.json": entry})
    (folder / "manifest.json").write_bytes(manifest.encode())
    return replace(made, bundle=folder, digest=manifest.digest)


def cell(batched: Server, alone: Server, connections: int, plan: Plan, work: Path) -> Iterator[Pair]:
    for server in (batched, alone):
        load(server.target, connections, 1)
    for number in range(plan.rounds):
        before = _counted(batched)
        order = (batched, alone) if number % 2 else (alone, batched)
        seen = {server.target.port: _loaded(server, connections, plan) for server in order}
        runs, rows = (now - then for now, then in zip(_counted(batched), before, strict=True))
        (ours, ours_us), (theirs, theirs_us) = seen[batched.target.port], seen[alone.target.port]
        yield Pair(ours, theirs, ours_us / max(theirs_us, 1e-9), rows / max(1.0, runs))
        for block in work.glob("endpoint-*/capture/*.npz"):  # as the control plane does
            block.unlink(missing_ok=True)


def _loaded(server: Server, connections: int, plan: Plan) -> tuple[Load, float]:
    """What came of it, and the CPU time of a request in us."""
    before = server.cpu_s()
    seen = load(server.target, connections, plan.seconds)
    return seen, 1e6 * (server.cpu_s() - before) / max(1, seen.requests)


def _counted(server: Server) -> tuple[float, float]:
    """Runs of the model so far, and rows in them."""
    with urlopen(f"http://127.0.0.1:{server.target.port}/metrics") as page:
        text = page.read().decode()
    return _sum(text, "mlplatform_batch_rows_count"), _sum(text, "mlplatform_batch_rows_sum")


def _sum(text: str, name: str) -> float:
    return sum(float(value) for value in re.findall(rf"^{name}{{[^}}]*}} (\S+)$", text, re.MULTILINE))


def measured(name: str, work: Path, plan: Plan) -> Iterator[str]:
    made = MODELS[name](work / name)
    with ExitStack() as stack:
        servers = []
        for one in (made, unbatched(made, work / name / "unbatched")):
            servers.append(ours(one, work, plan.workers))
            stack.callback(servers[-1].stop)
        for connections in plan.connections:
            yield row(name, connections, list(cell(servers[0], servers[1], connections, plan, work)))


def row(name: str, connections: int, pairs: Sequence[Pair]) -> str:
    per_second = interval([p.batched.per_second / max(p.alone.per_second, 1e-9) for p in pairs])
    p99 = interval([p.batched.p99_ms / p.alone.p99_ms for p in pairs])
    cpu = interval([p.cpu for p in pairs])
    failed = sum(p.batched.failed + p.alone.failed for p in pairs)
    name += f" ({failed} failed)" if failed else ""
    name += " **slower**" if per_second[0] < SLOWER else ""
    alone, alone_p99 = median(p.alone.per_second for p in pairs), median(p.alone.p99_ms for p in pairs)
    rows = median(p.rows_a_run for p in pairs)
    return (
        f"| {name} | {connections} | {alone:,.0f} | {_told(per_second)} | {alone_p99:.2f} | {_told(p99)}"
        f" | {_told(cpu)} | {rows:.1f} |"
    )


def _told(found: tuple[float, float, float]) -> str:
    middle, low, high = found
    return f"{middle:.2f} [{low:.2f}, {high:.2f}]"


def report(plan: Plan, names: Sequence[str]) -> Iterator[str]:
    client = "wrk" if wrk() else "tests/bench/serving_load.py (wrk is not installed)"
    yield (
        f"{plan.rounds} interleaved rounds of {plan.seconds:g} s, {plan.workers} worker(s), load by {client} on the"
        f" same {os.cpu_count()} cores; load average at the start {os.getloadavg()[0]:.1f}.\n"
    )
    yield "| model | connections | req/s without | x batched | p99 ms without | x batched | x CPU | rows a run |"
    yield "| --- | --: | --: | --: | --: | --: | --: | --: |"
    with tempfile.TemporaryDirectory(prefix="bench-batching-") as folder:
        for name in names:
            yield from measured(name, Path(folder), plan)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.bench_batching", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="three short rounds: that it works")
    parser.add_argument("--rounds", type=int, default=Plan.rounds)
    parser.add_argument("--seconds", type=float, default=Plan.seconds)
    parser.add_argument("--workers", type=int, default=Plan.workers)
    parser.add_argument("--connections", type=int, nargs="+", default=CONNECTIONS)
    parser.add_argument("--only", choices=MODELS, action="append", help="of the models; may be repeated")
    given = parser.parse_args(arguments)
    plan = Plan(given.rounds, given.seconds, given.workers, given.connections)
    if given.quick:
        plan = replace(plan, rounds=3, seconds=1.0)
    for line in report(plan, given.only or list(MODELS)):
        print(line, flush=True)


if __name__ == "__main__":
    main()
