"""The parent's end of a sandboxed child: start it, ask it, end it."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import Any, NoReturn

import mlplatform
from mlplatform.errors import ChildFailed
from mlplatform.ports.store import Stage
from mlplatform.sandbox import Limits

COMMAND = (sys.executable, "-P", "-s", "-m", "mlplatform.evaluation.child")
"""-P and -s: nothing is imported from the working folder or a user's own site-packages."""
LONGEST_REPLY = 1 << 20
KEPT = ("PATH", "LD_LIBRARY_PATH", "LANG", "LC_ALL", "TZ", "SYSTEMROOT")
"""Of the environment: no tokens, no tracking address, no proxies."""


class Child:
    """One bundle in one process, in a folder of its own. Use as a context manager; leaving it kills the
    process.

    `stage` makes the folder. `doing` completes "The sandboxed child that ..." in ChildFailed.
    """

    def __init__(
        self,
        bundle: Path,
        limits: Limits,
        doing: str,
        command: Sequence[str] = COMMAND,
        stage: Stage = TemporaryDirectory,
    ) -> None:
        self._bundle = bundle.resolve()
        self._limits = limits
        self._doing = doing
        self._command = list(command)
        self._unread = b""
        self._stage, self._left = stage, ExitStack()

    def __enter__(self) -> Child:
        self.folder = Path(self._left.enter_context(self._stage())).resolve()
        try:
            self._start()
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    def load(self) -> dict[str, Any]:
        """Load the bundle; `given_up` in the reply says what the sandbox took away."""
        limits = asdict(self._limits)
        return self._ask(
            {"do": "load", "bundle": str(self._bundle), "folder": str(self.folder), "limits": limits}
        )

    def ask(self, request: str, **arguments: Any) -> dict[str, Any]:
        """Send a request and wait for its reply. ChildFailed when it fails, dies, is silent too long or
        babbles.
        """
        return self._ask({"do": request, "with": arguments})

    def fail(self, ending: str, cause: str) -> NoReturn:
        raise ChildFailed(doing=self._doing, ending=ending, cause=cause)

    def _start(self) -> None:
        self.started = time.perf_counter()
        self._stderr = open(self.folder / "stderr.txt", "wb")  # noqa: SIM115 - closed in _end
        self._process = subprocess.Popen(
            self._command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            cwd=self.folder,
            env=_environment(self.folder),
            start_new_session=True,
        )

    def _ask(self, request: dict[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(request).encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            self._fail_by_end()
        line = self._line()
        try:
            reply: dict[str, Any] = json.loads(line)
            if reply["ok"]:
                return reply
            cause = str(reply["cause"])
        except (ValueError, KeyError, TypeError):
            self.fail("a reply that is none", repr(line[:80]))
        self.fail("an error", cause)

    def _line(self) -> bytes:
        assert self._process.stdout is not None
        pipe = self._process.stdout.fileno()
        deadline = time.monotonic() + self._limits.seconds
        while b"\n" not in self._unread:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([pipe], [], [], left)[0]:
                self.fail("a timeout", f"no answer within {self._limits.seconds:g} s")
            chunk = os.read(pipe, 1 << 16)
            if not chunk:
                self._fail_by_end()
            self._unread += chunk
            if len(self._unread) > LONGEST_REPLY:
                self.fail("a reply that is none", "more than 1 MB without a line's end")
        line, _, self._unread = self._unread.partition(b"\n")
        return line

    def _fail_by_end(self) -> NoReturn:
        self._kill()
        code = self._process.wait()
        lines = (self.folder / "stderr.txt").read_text(errors="replace").strip().splitlines()
        cause = lines[-1][:500] if lines else "it said nothing"
        if code >= 0:
            self.fail(f"exit code {code}", cause)
        name = signal.Signals(-code).name
        # The process may have ended by itself just before it was killed here; then its own signal stands.
        self.fail(f"signal {name}", "it used up its CPU time" if name == "SIGXCPU" else cause)

    def _kill(self) -> None:
        try:
            # A process that is already ending keeps its own exit status.
            self._process.wait(0.2)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)

    def _end(self) -> None:
        process = getattr(self, "_process", None)
        if process is not None:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            for pipe in (process.stdin, process.stdout):
                _close(pipe)
        _close(getattr(self, "_stderr", None))
        self._left.close()


def _close(pipe: Any) -> None:
    try:
        if pipe is not None:
            pipe.close()
    except BrokenPipeError:
        pass  # unsent bytes to a process that is gone


def _environment(folder: Path) -> dict[str, str]:
    package = Path(mlplatform.__file__ or "").resolve().parent.parent
    one_thread = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    return {
        **{name: os.environ[name] for name in KEPT if name in os.environ},
        **one_thread,
        "HOME": str(folder),
        "TMPDIR": str(folder),
        "PYTHONPATH": str(package),
        "PYTHONUNBUFFERED": "1",
    }
