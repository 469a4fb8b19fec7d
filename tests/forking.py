"""Real `mlplatform` processes without the seconds of their imports: a parent that has imported everything forks them.

A forked command is a process of its own in every respect that matters to crash safety: its own pid, its own
connections, and it may be killed.
"""

from __future__ import annotations

import json
import os
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
    "mlplatform.cli.watch",
    "mlplatform.control",
    "mlplatform.data.observations",
    "mlplatform.evaluation.evaluator",
    "mlplatform.state.ledger",
    "mlplatform.tracking.card",
    "mlplatform.tracking.registry",
    "mlplatform.tracking.runs",
    "mlplatform.trust.manifest",
)


class Forker:
    """Starts commands one after the other."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def run(
        self, words: Sequence[str], folder: Path, environment: Mapping[str, str], output: Path, errors: Path
    ) -> int:
        """The command's exit code; minus the number of the signal that killed it."""
        order = {"words": list(words), "folder": str(folder), "environment": dict(environment)}
        order |= {"output": str(output), "errors": str(errors)}
        assert self._process.stdin and self._process.stdout
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        assert answer, "the forking process ended"
        return int(answer)


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
        pid = os.fork()
        if pid == 0:
            _become(json.loads(line))
        _, status = os.waitpid(pid, 0)
        print(os.waitstatus_to_exitcode(status), file=answers, flush=True)


def _become(order: dict[str, Any]) -> None:
    """Run the command in this process, which is the forked one, and end it."""
    from mlplatform.cli.main import run

    os.chdir(order["folder"])
    os.environ.update(order["environment"])
    for stream, name in ((1, "output"), (2, "errors")):
        os.dup2(os.open(order[name], os.O_WRONLY | os.O_CREAT | os.O_TRUNC), stream)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    code = 1
    try:
        code = run(order["words"])
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    _serve()
