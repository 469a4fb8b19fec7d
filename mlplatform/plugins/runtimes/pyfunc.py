"""Any flavor of MLflow, for compatibility: runs the model's own code, in a process of its own.

The worker that answers requests imports neither MLflow nor pandas and unpickles nothing. The process has no network,
writes and starts nothing (where the kernel lets it give that up), has a limit of memory, and is killed when an answer
takes too long. One that ends is started again; the request that ended it fails alone.
"""

from __future__ import annotations

import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import weakref
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar

import mlplatform
from mlplatform.domain.bundle import Manifest
from mlplatform.errors import ChildFailed
from mlplatform.plugins.runtimes import frames
from mlplatform.sandbox import Limits
from mlplatform.stats.batch import Array, Batch, Outputs

COMMAND = (sys.executable, "-P", "-s", "-m", "mlplatform.plugins.runtimes.pyfunc_child")
"""-P and -s: nothing is imported from the working folder or a user's own site-packages."""
KEPT = ("PATH", "LD_LIBRARY_PATH", "LANG", "LC_ALL", "TZ", "SYSTEMROOT")
"""Of the environment: no tokens, no tracking address, no proxies."""
START_SECONDS = 120.0
ANSWER_SECONDS, MEMORY_MB = 30.0, 8192
REST_SECONDS = 5.0
"""Between the ends of a process that dies as soon as it has started."""


class ModelProcessFailed(RuntimeError):
    """The process that runs the model's code did not answer."""


@dataclass(frozen=True)
class PyfuncRuntime:
    """`manifest.options`: `answer_seconds` that one answer may take, `memory_mb` of address space that the process may
    have, as the policy's `[trust]` said when the version was registered."""

    safe: ClassVar[bool] = False

    def load(self, bundle: Path, manifest: Manifest) -> PyfuncPredictor:
        """Start the process and wait for the model. ChildFailed when it does not load."""
        return PyfuncPredictor(_folder(bundle, manifest), limits_of(manifest))

    def load_here(self, bundle: Path, manifest: Manifest) -> Any:
        """Load the model into this process, which is confined already. Runs the model's code."""
        from mlplatform.plugins.runtimes.pyfunc_child import PyfuncModel

        return PyfuncModel(_folder(bundle, manifest))


def _folder(bundle: Path, manifest: Manifest) -> Path:
    """MLflow loads folders."""
    path = bundle / manifest.model_path
    return path.parent if path.name == "MLmodel" else path


def limits_of(manifest: Manifest) -> Limits:
    seconds = float(manifest.options.get("answer_seconds", ANSWER_SECONDS))
    memory = int(manifest.options.get("memory_mb", MEMORY_MB)) << 20
    return Limits(seconds=seconds, memory_bytes=memory, for_good=True)


class PyfuncPredictor:
    """A model in its process. One answer at a time; when the predictor goes, the process ends."""

    def __init__(self, folder: Path, limits: Limits) -> None:
        self._keeper = Keeper(lambda: ModelProcess(folder, limits))
        self._seconds = limits.seconds
        self._turn = threading.Lock()
        self.close = weakref.finalize(self, self._keeper.stop)
        self._keeper.start()

    def predict(self, batch: Batch) -> Outputs:
        """ModelProcessFailed, with what the model said."""
        with self._turn:
            process = self._keeper.process()
            try:
                wish = {"params": dict(batch.params)} if batch.params else {}
                head, arrays = process.ask(wish, batch.columns(), self._seconds)
            except ModelProcessFailed:
                process.end()  # the keeper starts the next one
                raise
        if not head.get("ok"):
            raise ModelProcessFailed(str(head.get("cause"))[:600])
        return _outputs(head, arrays)

    @property
    def pid(self) -> int:
        """Of the process that runs now."""
        return self._keeper.process().pid


def _outputs(head: Mapping[str, Any], arrays: dict[str, Array]) -> Outputs:
    name, form = str(head.get("name")), head.get("form")
    if name not in arrays or form not in ("list", "records", "dict"):
        raise ModelProcessFailed("its reply is none")
    first = arrays.pop(name)
    return Outputs(first, None, arrays if head.get("several") else None, name, form)


class Keeper:
    """A thread that starts a process, and another one whenever it has ended.

    Always the same thread: Linux ends a child that asked for it together with the thread that started it.
    """

    def __init__(self, start: Callable[[], ModelProcess]) -> None:
        self._start = start
        self._changed = threading.Condition()
        self._process: ModelProcess | None = None
        self._error: Exception | None = None
        self._stopped = False

    def start(self) -> None:
        """Returns when the first process has loaded its model; ChildFailed when it does not."""
        threading.Thread(target=self._keep, name="pyfunc", daemon=True).start()
        try:
            self.process()
        except BaseException:
            self.stop()
            raise

    def process(self) -> ModelProcess:
        """The process that runs, or the next one. ChildFailed when that did not start."""
        with self._changed:
            self._changed.wait_for(self._is_settled, START_SECONDS)
            if self._process is None:
                raise self._error or ModelProcessFailed("it does not start in time")
            return self._process

    def stop(self) -> None:
        with self._changed:
            self._stopped = True
            process = self._process
            self._changed.notify_all()
        if process is not None:
            process.end()
            process.wait()

    def _is_settled(self) -> bool:
        running = self._process is not None and self._process.running()
        return running or self._error is not None or self._stopped

    def _is_stopped(self) -> bool:
        return self._stopped

    def _keep(self) -> None:
        while not self._is_stopped():
            began = time.monotonic()
            process, error = None, None
            try:
                process = self._start()
            except Exception as caught:
                error = caught
            with self._changed:
                self._process, self._error = process, error
                self._changed.notify_all()
                stopped = self._is_stopped()
            if process is not None:
                if stopped:
                    process.end()
                process.wait()
                with self._changed:
                    self._process = None
                if not self._is_stopped():
                    print(
                        "pyfunc: the model's process ended and is started again", file=sys.stderr, flush=True
                    )
            if error is not None or time.monotonic() - began < REST_SECONDS:
                with self._changed:
                    self._changed.wait_for(lambda: self._stopped, REST_SECONDS if error else 0.05)
                    self._error = None


class ModelProcess:
    """A process that has loaded a model, and the pipes to it."""

    def __init__(self, folder: Path, limits: Limits) -> None:
        self._asked = threading.Lock()
        self._ended = False
        self._folder = Path(tempfile.mkdtemp(prefix="mlplatform-pyfunc-"))
        self._process = subprocess.Popen(
            COMMAND,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
            cwd=self._folder,
            env=_environment(self._folder),
            start_new_session=True,
        )
        assert self._process.stdin is not None and self._process.stdout is not None
        self._in, self._out = self._process.stdin.fileno(), self._process.stdout.fileno()
        os.set_blocking(self._in, False)
        self.pid = self._process.pid
        order = {"model": str(folder.resolve()), "folder": str(self._folder), "limits": asdict(limits)}
        try:
            head, _ = self.ask(order, {}, START_SECONDS)
        except ModelProcessFailed as error:
            self.end()
            self.wait()
            raise ChildFailed(doing="runs a model's code", ending="an error", cause=str(error)) from error
        if not head.get("ok"):
            self.end()
            self.wait()
            raise ChildFailed(
                doing="runs a model's code", ending="an error", cause=str(head.get("cause"))[:600]
            )

    def ask(
        self, head: Mapping[str, Any], arrays: Mapping[str, Array], seconds: float
    ) -> tuple[dict[str, Any], dict[str, Array]]:
        """ModelProcessFailed when it ends, is silent for too long, or babbles: it is of no use then."""
        deadline = time.monotonic() + seconds
        with self._asked:
            return self._ask(head, arrays, seconds, deadline)

    def _ask(
        self, head: Mapping[str, Any], arrays: Mapping[str, Array], seconds: float, deadline: float
    ) -> tuple[dict[str, Any], dict[str, Array]]:
        try:
            for part in frames.encode(head, arrays):
                self._write(memoryview(part), deadline)
            return frames.decode(lambda size: self._read(size, deadline))
        except TimeoutError as error:
            raise ModelProcessFailed(f"no answer within {seconds:g} s") from error
        except (ValueError, OSError, EOFError) as error:
            why = str(error) if isinstance(error, ValueError) else "its process ended"
            raise ModelProcessFailed(why) from error

    def running(self) -> bool:
        return not self._ended and self._process.returncode is None

    def end(self) -> None:
        self._ended = True
        with suppress(ProcessLookupError):
            if self._process.returncode is None:
                os.killpg(self.pid, signal.SIGKILL)

    def wait(self) -> None:
        """Until it has ended; then its folder goes."""
        self._process.wait()
        with self._asked:  # a descriptor that is closed may be somebody else's at once
            for pipe in (self._process.stdin, self._process.stdout):
                with suppress(OSError):
                    pipe.close()  # type: ignore[union-attr]
        shutil.rmtree(self._folder, ignore_errors=True)

    def _write(self, left: memoryview, deadline: float) -> None:
        while left:
            try:
                left = left[os.write(self._in, left) :]
            except BlockingIOError:
                _wait_for(self._in, select.POLLOUT, deadline)

    def _read(self, size: int, deadline: float) -> bytes:
        parts, left = [], size
        while left:
            _wait_for(self._out, select.POLLIN, deadline)
            chunk = os.read(self._out, min(left, 1 << 20))
            if not chunk:
                raise EOFError
            parts.append(chunk)
            left -= len(chunk)
        return b"".join(parts)


def _wait_for(pipe: int, event: int, deadline: float) -> None:
    poll = select.poll()
    poll.register(pipe, event)
    if not poll.poll(max(deadline - time.monotonic(), 0.0) * 1000):
        raise TimeoutError


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
        "PYTHONDONTWRITEBYTECODE": "1",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "DO_NOT_TRACK": "1",
    }
