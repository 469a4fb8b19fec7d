"""Real `mlplatform` processes without the seconds of their imports: a parent that has imported everything forks them.

A forked command is a process of its own in every respect that matters to crash safety: its own pid, its own
connections, and it may be killed: by itself at a failpoint, or from outside after some time.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

WARM = (
    "mlflow",
    "mlflow.store.tracking.sqlalchemy_store",
    "pandas",
    "psycopg",
    "pyarrow.parquet",
    "requests",
    "skl2onnx",
    "sklearn.linear_model",
    "skops.io",
    "alembic.migration",
    "mlplatform.cli.models",
    "mlplatform.cli.project",
    "mlplatform.cli.serving",
    "mlplatform.cli.versions",
    "mlplatform.cli.upkeep",
    "mlplatform.cli.watch",
    "mlplatform.control",
    "mlplatform.data.observations",
    "mlplatform.evaluation.evaluator",
    "mlplatform.report.version_page",
    "mlplatform.report.version_plots",
    "mlplatform.state.ledger",
    "mlplatform.tracking.card",
    "mlplatform.tracking.registry",
    "mlplatform.tracking.runs",
    "mlplatform.trust.manifest",
)


class Forker:
    """Starts commands, one after the other or several at once."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def run(
        self,
        words: Sequence[str],
        folder: Path,
        environment: Mapping[str, str],
        output: Path,
        errors: Path,
        kill_after_seconds: float | None = None,
    ) -> int:
        """The command's exit code; minus the number of the signal that killed it."""
        self.start([order(words, folder, environment, output, errors, kill_after_seconds)])
        return self.ended()[0]

    def start(self, orders: Sequence[Mapping[str, Any]]) -> None:
        """Every one a process of its own; nothing else can be started before they have `ended`."""
        assert self._process.stdin
        self._process.stdin.write(json.dumps(orders) + "\n")
        self._process.stdin.flush()

    def ended(self) -> list[int]:
        """Exit codes in the order of the orders, once all have ended."""
        assert self._process.stdout
        answer = self._process.stdout.readline()
        assert answer, "the forking process ended"
        return [int(code) for code in json.loads(answer)]


def order(
    words: Sequence[str],
    folder: Path,
    environment: Mapping[str, str],
    output: Path,
    errors: Path,
    kill_after_seconds: float | None = None,
) -> dict[str, Any]:
    """A command, where it runs, where its output goes, and when it is killed unless it has ended by then."""
    told = {"words": list(words), "folder": str(folder), "environment": dict(environment)}
    return told | {"output": str(output), "errors": str(errors), "kill_after_seconds": kill_after_seconds}


@contextmanager
def forker() -> Iterator[Forker]:
    command = [sys.executable, "-m", "tests.forking"]
    root = Path(__file__).parent.parent
    with subprocess.Popen(
        command, cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        yield Forker(process)
        assert process.stdin
        process.stdin.close()


def _serve() -> None:
    from importlib import import_module

    from mlplatform.tracking.client import prepare

    prepare()
    for name in WARM:
        import_module(name)
    answers = os.fdopen(os.dup(1), "w")
    for line in sys.stdin:
        orders = json.loads(line)
        pids = [_forked(one) for one in orders]
        for pid, one in zip(pids, orders, strict=True):
            if one["kill_after_seconds"] is not None:
                _kill_after(pid, one["kill_after_seconds"])
        codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]
        print(json.dumps(codes), file=answers, flush=True)


def _forked(told: dict[str, Any]) -> int:
    pid = os.fork()
    if pid == 0:
        _become(told)
    return pid


def _kill_after(pid: int, seconds: float) -> None:
    """Nobody has waited for the process yet, so that its id cannot be another's."""
    process = os.pidfd_open(pid)
    try:
        if not select.select([process], [], [], seconds)[0]:
            os.kill(pid, signal.SIGKILL)
    finally:
        os.close(process)


def _become(told: dict[str, Any]) -> None:
    """Run the command in this process, which is the forked one, and end it."""
    from mlplatform.cli.main import run

    os.chdir(told["folder"])
    os.environ.update(told["environment"])
    for stream, name in ((1, "output"), (2, "errors")):
        os.dup2(os.open(told[name], os.O_WRONLY | os.O_CREAT | os.O_TRUNC), stream)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    code = 1
    try:
        code = run(told["words"])
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    _serve()
