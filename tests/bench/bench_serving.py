"""Our model server beside its peers, in interleaved rounds on one machine; prints the Markdown of docs/performance.md.

    python -m tests.bench.bench_serving [--quick] [--rounds N] [--seconds S] [--torchserve DIR] [--also NAME=URL]

Each server answers the same rows over HTTP with two workers and keeps running from the first round to the last; in
each round all are loaded in turn, and ratios are taken within a round. CPU is that of the server's whole process
tree. Ours runs as it does for users: validation, metrics, request ids, and capture of every row to disk.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import median
from urllib.request import urlopen

from mlplatform.domain.routes import CaptureRule, Route, Routes
from tests.bench import serving_models as models
from tests.bench.serving_load import Load, Target, load, wrk
from tests.bench.serving_models import Made
from tests.bench.serving_processes import Server, free_port, start

WORKERS = 2
OURS, NO_CAPTURE, MLFLOW = "mlplatform", "mlplatform, capture off", "mlflow models serve"
TORCHSERVE = "TorchServe"
NAIVE, TUNED, FLOOR = "FastAPI + ORT, as a user writes it", "FastAPI + ORT, tuned", "floor: a constant"
JSON_64, BINARY_64 = "JSON", "binary tensors"
ELSEWHERE = {"MLServer": "mlserver", "BentoML": "bentoml", "LitServe": "litserve"}
"""Peers that are measured where somebody runs them and names them with `--also`, by their program."""


@dataclass(frozen=True)
class Plan:
    """How long and how hard."""

    rounds: int = 7
    seconds: float = 4.0
    connections: int = 64
    starts: int = 5
    quick: bool = False
    torchserve: Path | None = None
    """The folder of its programs: it lives in a virtual environment of its own."""


@dataclass(frozen=True)
class Sample:
    """One server in one round."""

    load: Load
    cpu_us: float


Samples = Mapping[str, Sequence[Sample]]


# ---- servers


def ours(made: Made, work: Path, workers: int = WORKERS, capture: bool = True) -> Server:
    name, port = OURS if capture else NO_CAPTURE, free_port()
    folder = Path(tempfile.mkdtemp(dir=work, prefix="endpoint-"))
    route = Route(made.name, 1, made.digest, str(made.bundle))
    rule = CaptureRule(sample=1.0 if capture else 0.0)
    (folder / "routes.json").write_bytes(Routes("bench", 1, (route,), capture=rule).encode())
    command = [sys.executable, "-m", "mlplatform.serving.main", "--folder", str(folder)]
    command += ["--port", str(port), "--workers", str(workers)]
    form = "inputs" if made.name in ("mlp", "linear") else "split"
    return start(name, Target(port, "/invocations", made.body(form)), [command], {}, work / "ours.log")


def mlflow(made: Made, work: Path) -> Server:
    port = free_port()
    program = str(Path(sys.executable).parent / "mlflow")
    command = [program, "models", "serve", "-m", str(made.mlflow), "--env-manager", "local"]
    command += ["-h", "127.0.0.1", "-p", str(port), "-w", str(WORKERS)]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    form = "split" if made.name == "logistic" else "inputs"
    target = Target(port, "/invocations", made.body(form))
    return start(MLFLOW, target, [command], {"PATH": path}, work / "mlflow.log")


def fastapi(made: Made, work: Path, name: str, module: str) -> Server:
    port = free_port()
    command = [sys.executable, "-m", "uvicorn", f"tests.bench.serving_peers.{module}:app"]
    command += ["--port", str(port), "--workers", str(WORKERS), "--log-level", "warning", "--no-access-log"]
    target = Target(port, "/predict", made.body("rows"))
    return start(name, target, [command], {"BENCH_ONNX": str(made.onnx)}, work / f"{module}.log")


def torchserve(made: Made, work: Path, programs: Path) -> Server:
    """As its documentation says, with as many workers as the others and no authorization."""
    store = work / "torchserve"
    store.mkdir()
    handler = Path(__file__).parent / "serving_peers" / "torchserve_handler.py"
    path = f"{programs}{os.pathsep}{os.environ['PATH']}"
    archive = [str(programs / "torch-model-archiver"), "--model-name", made.name, "--version", "1"]
    archive += ["--serialized-file", str(made.script), "--handler", str(handler), "--export-path", str(store)]
    subprocess.run(archive, env={**os.environ, "PATH": path}, check=True, capture_output=True)
    port = free_port()
    addresses = {"inference_address": port, "management_address": free_port(), "metrics_address": free_port()}
    lines = [f"{name}=http://127.0.0.1:{number}" for name, number in addresses.items()]
    lines += [f"grpc_inference_port={free_port()}", f"grpc_management_port={free_port()}"]
    lines += [f"default_workers_per_model={WORKERS}", "disable_token_authorization=true"]
    settings = store / "config.properties"
    settings.write_text("\n".join(lines))
    command = [str(programs / "torchserve"), "--start", "--foreground", "--ncs", "--disable-token-auth"]
    command += [
        "--model-store",
        str(store),
        "--ts-config",
        str(settings),
        "--models",
        f"{made.name}={made.name}.mar",
    ]
    env = {"PATH": path, "LOG_LOCATION": str(work), "METRICS_LOCATION": str(work)}
    target = Target(port, f"/predictions/{made.name}", made.body("rows"))
    return start(TORCHSERVE, target, [command], env, work / "torchserve.log")


def floor(made: Made, work: Path) -> Server:
    port = free_port()
    command = [sys.executable, "-m", "tests.bench.serving_peers.floor", str(port)]
    target = Target(port, "/invocations", made.body("split"))
    return start(FLOOR, target, [command] * WORKERS, {}, work / "floor.log")


@contextmanager
def running(starts: Sequence[Callable[[], Server]]) -> Iterator[list[Server]]:
    with ExitStack() as stack:
        servers = []
        for begin in starts:
            servers.append(begin())
            stack.callback(servers[-1].stop)
        yield servers


# ---- measuring


def rounds(servers: Mapping[str, Server], plan: Plan, work: Path) -> Samples:
    """Each server in turn, so many times; what was captured meanwhile is taken away, as the control plane does."""
    found = defaultdict(list)
    for server in servers.values():
        load(server.target, plan.connections, 1)
    for _ in range(plan.rounds):
        for name, server in servers.items():
            before = server.cpu_s()
            seen = load(server.target, plan.connections, plan.seconds)
            spent = server.cpu_s() - before
            found[name].append(Sample(seen, 1e6 * spent / max(1, seen.requests)))
            for block in work.glob("endpoint-*/capture/*.npz"):
                block.unlink(missing_ok=True)
    return found


def start_s(made: Made, work: Path, plan: Plan) -> list[float]:
    """Seconds from the command to the first answer, one worker, again and again."""
    found = []
    for _ in range(plan.starts):
        server = ours(made, work, workers=1)
        server.stop()
        found.append(server.start_s)
    return found


def dropped_rows(server: Server) -> int:
    with urlopen(f"http://127.0.0.1:{server.target.port}/metrics") as page:
        lines = page.read().decode().splitlines()
    return sum(
        int(float(line.split()[-1])) for line in lines if line.startswith("mlplatform_dropped_rows_total")
    )


def ratio(samples: Samples, name: str, to: str) -> float:
    """Median over the rounds of req/s against another server's of the same round."""
    pairs = zip(samples[name], samples[to], strict=True)
    return median(a.load.per_second / max(b.load.per_second, 1e-9) for a, b in pairs)


# ---- telling


def table(samples: Samples, servers: Mapping[str, Server], against: str) -> Iterator[str]:
    yield f"| server | req/s | x {against} | CPU us a request | p50 ms | p99 ms | worker MB | first answer s |"
    yield "| --- | --: | --: | --: | --: | --: | --: | --: |"
    for name, some in sorted(samples.items(), key=lambda pair: median(s.load.per_second for s in pair[1])):
        per_second, cpu_us = median(s.load.per_second for s in some), median(s.cpu_us for s in some)
        p50, p99 = median(s.load.p50_ms for s in some), median(s.load.p99_ms for s in some)
        failed = sum(s.load.failed for s in some)
        times = f"{ratio(samples, name, against):.1f}" if against in samples else ""
        server = servers[name]
        yield (
            f"| {name}{f' ({failed} failed)' if failed else ''} | {per_second:,.0f} | {times} | {cpu_us:,.1f}"
            f" | {p50:.2f} | {p99:.2f} | {server.worker_mb():.0f} | {server.start_s:.2f} |"
        )


def claims(samples: Samples, against: Sequence[str]) -> Iterator[str]:
    for name in against:
        if name in samples:
            yield f"- against {name}: {ratio(samples, OURS, name):.1f}x"
    worst = median(s.load.p99_ms / s.load.p50_ms for s in samples[OURS])
    yield f"- p99 with capture against p50: {worst:.1f}x"


def not_installed(torchserve_too: bool) -> Iterator[str]:
    if torchserve_too:
        yield f"| {TORCHSERVE} | not measured: `--torchserve DIR` names the folder of its programs | | | | | | |"
    for name, program in ELSEWHERE.items():
        if not shutil.which(program, path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"):
            yield f"| {name} | not installed | | | | | | |"


def logistic(work: Path, plan: Plan) -> Iterator[str]:
    made = models.logistic(work / "logistic")
    begin = [
        partial(mlflow, made, work),
        partial(fastapi, made, work, NAIVE, "fastapi_naive"),
        partial(fastapi, made, work, TUNED, "fastapi_tuned"),
        partial(ours, made, work),
        partial(ours, made, work, capture=False),
        partial(floor, made, work),
    ]
    starts = start_s(made, work, plan)
    with running(begin) as started:
        servers = {server.name: server for server in started}
        samples = rounds(servers, plan, work)
        yield f"### Logistic regression, 30 columns, 1 row, {plan.connections} connections\n"
        yield from table(samples, servers, MLFLOW)
        yield ""
        yield from claims(samples, (MLFLOW, NAIVE, TUNED))
        yield f"- rows that capture dropped: {dropped_rows(servers[OURS])}"
        seconds = f"{median(starts):.2f} s, at most {max(starts):.2f} s (n = {len(starts)})"
        yield f"- start to first answer, one worker: {seconds}"


def mlp(work: Path, plan: Plan, also: Sequence[tuple[str, Target]]) -> Iterator[str]:
    made = models.mlp(work / "mlp")
    begin = [partial(fastapi, made, work, TUNED, "fastapi_tuned"), partial(ours, made, work)]
    begin += [] if plan.quick else [partial(mlflow, made, work)]
    begin += [partial(torchserve, made, work, plan.torchserve)] if plan.torchserve else []
    with running(begin) as started:
        servers = {server.name: server for server in started}
        servers |= {name: Server(name, replace(target, body=made.body("rows")), ()) for name, target in also}
        samples = rounds(servers, plan, work)
        yield f"\n### MLP of 1.3 million parameters, 784 columns, 1 row, {plan.connections} connections\n"
        yield from table(samples, servers, MLFLOW)
        yield from not_installed(TORCHSERVE not in samples)
        yield ""
        yield from claims(samples, (MLFLOW, TORCHSERVE, TUNED, *(name for name, _ in also)))
        yield from forms(made, servers[OURS], plan, work)
    small = models.linear(work / "linear")
    with running([partial(ours, small, work)]) as started:
        yield from forms(small, started[0], plan, work)


def forms(made: Made, server: Server, plan: Plan, work: Path) -> Iterator[str]:
    """The same rows as JSON and as binary tensors."""
    port, path = server.target.port, f"/v2/models/{made.name}/infer"
    length = ("Inference-Header-Content-Length", str(made.json_bytes(64)))
    targets = {
        JSON_64: Target(port, path, made.body("v2", 64)),
        BINARY_64: Target(
            port, path, made.body("binary", 64), (("Content-Type", "application/octet-stream"), length)
        ),
    }
    servers = {name: replace(server, target=target) for name, target in targets.items()}
    samples = rounds(servers, replace(plan, connections=min(16, plan.connections)), work)
    yield f"\n### 64 rows of 784 columns, {made.name}, {min(16, plan.connections)} connections\n"
    yield "| form | req/s | x JSON | CPU us a request | p50 ms | p99 ms |"
    yield "| --- | --: | --: | --: | --: | --: |"
    for name, some in samples.items():
        per_second, cpu_us = median(s.load.per_second for s in some), median(s.cpu_us for s in some)
        p50, p99 = median(s.load.p50_ms for s in some), median(s.load.p99_ms for s in some)
        times = ratio(samples, name, JSON_64)
        yield f"| {name} | {per_second:,.0f} | {times:.1f} | {cpu_us:,.0f} | {p50:.2f} | {p99:.2f} |"


def report(plan: Plan, also: Sequence[tuple[str, Target]] = ()) -> Iterator[str]:
    client = "wrk" if wrk() else "tests/bench/serving_load.py (wrk is not installed)"
    yield (
        f"{plan.rounds} interleaved rounds of {plan.seconds:g} s, medians; {WORKERS} workers each, load by {client}"
        f" on the same {os.cpu_count()} cores; load average at the start {os.getloadavg()[0]:.1f}.\n"
    )
    with tempfile.TemporaryDirectory(prefix="bench-serving-") as name:
        work = Path(name)
        yield from logistic(work, plan)
        yield from mlp(work, plan, also)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.bench_serving", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one short round: that it works, not how fast")
    parser.add_argument("--rounds", type=int, default=Plan.rounds)
    parser.add_argument("--seconds", type=float, default=Plan.seconds)
    parser.add_argument(
        "--also", action="append", default=[], metavar="NAME=PORT/PATH", help="a running server"
    )
    parser.add_argument("--torchserve", type=Path, help="the folder of TorchServe's programs")
    given = parser.parse_args(arguments)
    plan = Plan(given.rounds, given.seconds, torchserve=given.torchserve)
    if given.quick:
        plan = replace(plan, rounds=1, seconds=1.0, connections=16, starts=1, quick=True)
    for line in report(plan, [_running(text) for text in given.also]):
        print(line, flush=True)


def _running(text: str) -> tuple[str, Target]:
    """`TorchServe=8080/predictions/mlp`: it takes the MLP's rows as `{"data": [[...]]}`."""
    name, _, place = text.partition("=")
    port, _, path = place.partition("/")
    return name, Target(int(port), f"/{path}", Path())


if __name__ == "__main__":
    main()
