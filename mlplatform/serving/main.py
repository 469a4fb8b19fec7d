"""The model server of one endpoint: `python -m mlplatform.serving.main --folder DIR`.

The parent holds the listening sockets, one a worker (SO_REUSEPORT), and starts a worker for each. A worker
that dies is started again on the same socket, so that connections that wait in its queue are answered by
the next one. Another server that takes over the port is handed the sockets: see `handover`.
"""

from __future__ import annotations

import argparse
import errno
import fcntl
import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from mlplatform.domain.access import demands_tokens, exposure
from mlplatform.domain.limits import RequestLimits
from mlplatform.errors import AlreadyRunning, MlplatformError, PortInUse, UsageError, WorldError
from mlplatform.serving import logs
from mlplatform.serving.guards import Guards, add_guards
from mlplatform.serving.handover import Door, adopted
from mlplatform.serving.joining import add_port
from mlplatform.serving.limits import add_limits, limits_of
from mlplatform.serving.metrics import Ended
from mlplatform.serving.telling import Telling, add_telling

STOP_SECONDS = 20.0
LONGEST_PAUSE_SECONDS = 5.0
BACKLOG = 2048


def main(arguments: list[str] | None = None) -> int:
    """Serve until SIGTERM or SIGINT; the exit code."""
    given = _parser().parse_args(arguments)
    try:
        return serve(given)
    except MlplatformError as error:
        _tell(given, error)
        return error.exit_code


def serve(given: argparse.Namespace) -> int:
    folder: Path = given.folder.absolute()
    guards, limits = check_guards(given), _limits(given)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = take_lock(folder)
    except OSError as error:
        raise WorldError(what=f"The folder {folder} cannot be used: {error.strerror}") from error
    with lock:
        _serve_locked(folder, given, guards, limits)
    return 0


def _serve_locked(folder: Path, given: argparse.Namespace, guards: Guards, limits: RequestLimits) -> None:
    _clean(folder)
    if given.adopt:
        listeners = adopted(folder, given.workers)
    else:
        listeners = [[listener] for listener in listen(given.host, given.port, given.workers)]
    telling = Telling.of(given)
    telling.configure("parent")
    supervisor = Supervisor(folder, listeners, limits, guards, telling, given.keeper)
    try:
        supervisor.start()
        _announce(folder, given.host, listeners[0][0].getsockname()[1], given.workers, guards)
        supervisor.watch()
    finally:
        supervisor.stop()
        logs.event("stopped", f"{folder.name} is served no more")
        (folder / "server.json").unlink(missing_ok=True)


def take_lock(folder: Path) -> IO[str]:
    """The lock of a folder, with our pid in it; AlreadyRunning when another server holds it."""
    lock = (folder / "server.lock").open("a+")
    for _ in range(20):  # whoever asks whether a server runs holds the lock for a moment
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(0.02)
        else:
            lock.truncate(0)
            lock.write(str(os.getpid()))
            lock.flush()
            return lock
    lock.seek(0)
    pid = lock.read().strip() or "?"
    lock.close()
    raise AlreadyRunning(what="A model server", pid=pid, address=_address(folder))


def listen(host: str, port: int, workers: int) -> list[socket.socket]:
    """One listening socket a worker, all on one port; PortInUse when it is taken."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        # Without SO_REUSEPORT, which would share a port with another server of the same user.
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
            port = probe.getsockname()[1]
            if workers == 1:
                probe.listen(BACKLOG)
                return [probe.dup()]
        listeners = [socket.socket(family, socket.SOCK_STREAM) for _ in range(workers)]
        for listener in listeners:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            listener.bind((host, port))
            listener.listen(BACKLOG)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise PortInUse(port=port, host=host) from None
        raise WorldError(what=f"Cannot listen on {host}:{port}: {error.strerror or error}") from error
    return listeners


@dataclass
class Worker:
    """A worker's place: its sockets, of which there is one unless they were taken over, and the process in it."""

    listeners: Sequence[socket.socket]
    number: int
    process: subprocess.Popen[bytes] | None = None
    lifeline: int = -1
    started_at: float = 0.0
    early_deaths: int = 0
    start_again_at: float = 0.0


@dataclass
class Supervisor:
    """Keeps the workers running."""

    folder: Path
    listeners: Sequence[Sequence[socket.socket]]
    limits: RequestLimits
    guards: Guards
    telling: Telling
    keeper: Path | None = None
    _workers: list[Worker] = field(default_factory=list)
    _stopping: bool = False

    def start(self) -> None:
        self._wake, write = os.pipe()
        os.set_blocking(self._wake, False)
        os.set_blocking(write, False)
        signal.set_wakeup_fd(write, warn_on_full_buffer=False)
        signal.signal(signal.SIGTERM, self._told_to_stop)
        signal.signal(signal.SIGINT, self._told_to_stop)
        signal.signal(signal.SIGCHLD, lambda *_: None)  # it has to wake us, no more
        self._door = Door(self.folder, [each for listeners in self.listeners for each in listeners])
        self._workers = [Worker(listeners, number) for number, listeners in enumerate(self.listeners)]
        self._ended = Ended(self.folder, len(self.listeners))
        for worker in self._workers:
            self._start(worker)

    def watch(self) -> None:
        """Start again whoever dies; returns when we are told to stop."""
        while True:
            woken, _, _ = select.select([self._wake, *self._door.handles], [], [], self._pause())
            if self._wake in woken:
                os.read(self._wake, 4096)
            if self._stopping:
                return
            if set(self._door.handles) & set(woken):
                self._door.answer()
            for worker in self._workers:
                self._look_after(worker)

    def stop(self) -> None:
        """Let the workers finish their requests; then none is left."""
        running = [worker for worker in self._workers if worker.process is not None]
        # Who comes when the workers have stopped is refused by the system, and does not wait in vain.
        self._door.close()
        for worker in self._workers:
            for listener in worker.listeners:
                listener.close()
        for worker in running:
            _cut(worker)  # it learns that nobody takes its place; one that just starts ignores signals
            _signal(worker, signal.SIGTERM)
        deadline = time.monotonic() + STOP_SECONDS
        for worker in running:
            assert worker.process is not None
            try:
                worker.process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                _signal(worker, signal.SIGKILL)
                worker.process.wait()
            self._forget(worker)
        for path in (self.folder / "workers").glob("*.metrics"):
            path.unlink(missing_ok=True)

    def _start(self, worker: Worker) -> None:
        theirs, worker.lifeline = os.pipe()
        listeners = [listener.fileno() for listener in worker.listeners]
        command = [sys.executable, "-P", "-m", "mlplatform.serving.worker", "--folder", str(self.folder)]
        command += [word for listener in listeners for word in ("--listener", str(listener))]
        command += ["--lifeline", str(theirs)]
        command += [*self.limits.words(), *self.guards.words()]
        command += ["--worker", str(worker.number), *self.telling.words()]
        if self.keeper is not None:
            command += ["--keeper", str(self.keeper), "--of", str(len(self.listeners))]
        worker.process = subprocess.Popen(command, pass_fds=(*listeners, theirs), stdin=subprocess.DEVNULL)
        os.close(theirs)
        worker.started_at = time.monotonic()

    def _told_to_stop(self, *_: object) -> None:
        self._stopping = True

    def _look_after(self, worker: Worker) -> None:
        now = time.monotonic()
        if worker.process is not None and worker.process.poll() is not None:
            code, pid = worker.process.returncode, worker.process.pid
            worker.early_deaths = worker.early_deaths + 1 if now - worker.started_at < 5 else 0
            pause = min(LONGEST_PAUSE_SECONDS, 0.1 * 2**worker.early_deaths) if worker.early_deaths else 0.0
            worker.start_again_at = now + pause
            said = f"worker {pid} ended with {code}; starting another in {pause:.1f} s"
            logs.event("worker-died", said, "error", process__exit_code=code)
            self._ended.take(pid)
            (self.folder / "workers" / f"{pid}.json").unlink(missing_ok=True)
            self._forget(worker)
        if worker.process is None and now >= worker.start_again_at:
            self._start(worker)

    def _forget(self, worker: Worker) -> None:
        worker.process = None
        _cut(worker)

    def _pause(self) -> float:
        """Seconds until a worker is due; children that die wake us before."""
        due = [worker.start_again_at - time.monotonic() for worker in self._workers if worker.process is None]
        return max(0.0, min(due, default=5.0))


def _signal(worker: Worker, number: int) -> None:
    if worker.process is not None and worker.process.poll() is None:
        worker.process.send_signal(number)


def _cut(worker: Worker) -> None:
    if worker.lifeline >= 0:
        os.close(worker.lifeline)
        worker.lifeline = -1


def _announce(folder: Path, host: str, port: int, workers: int, guards: Guards) -> None:
    document = {"pid": os.getpid(), "host": host, "port": port, "endpoint": folder.name, "workers": workers}
    document |= {"auth": guards.auth, "tls": guards.certificate is not None}
    temporary = folder / ".server.json.tmp"
    temporary.write_text(json.dumps(document))
    temporary.rename(folder / "server.json")
    scheme = "https" if guards.certificate else "http"
    logs.event("started", f"serving {folder.name} on {scheme}://{host}:{port} with {workers} worker(s)")


def _clean(folder: Path) -> None:
    """What an earlier server left that was killed. We hold the lock: nobody writes here but us."""
    (folder / "server.json").unlink(missing_ok=True)
    for path in (folder / "workers").glob("*"):
        path.unlink(missing_ok=True)
    for kind in ("capture", "inbox"):
        for path in (folder / kind).glob(".*.tmp"):
            path.unlink(missing_ok=True)


def check_guards(given: argparse.Namespace) -> Guards:
    """What the server demands, once it is clear that it may listen so. Raises UsageError."""
    if (given.tls_cert is None) != (given.tls_key is None):
        raise UsageError(what="--tls-cert and --tls-key belong together")
    try:
        why = exposure(given.host, given.auth, given.tls_cert is not None, given.behind_proxy)
        auth = demands_tokens(given.host, given.auth)
    except ValueError as error:
        raise UsageError(what=str(error)) from None
    if why:
        hint = "Give --tls-cert and --tls-key, or --behind-proxy where only a proxy can reach it."
        raise UsageError(hint, what=why)
    guards = Guards(auth, given.tls_cert, given.tls_key)
    guards.load_certificate()
    return guards


def _limits(given: argparse.Namespace) -> RequestLimits:
    try:
        return limits_of(given)
    except ValueError as error:
        raise UsageError(what=str(error)) from None


def _address(folder: Path) -> str:
    try:
        found = json.loads((folder / "server.json").read_bytes())
        return f", {'https' if found.get('tls') else 'http'}://{found['host']}:{found['port']}"
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def _tell(given: argparse.Namespace, error: MlplatformError) -> None:
    said = f"{error}. {error.next_step}".rstrip()
    if given.log_style == "text":
        print(f"error: {said}", file=sys.stderr)
        return
    Telling.of(given).configure("parent")
    logs.event("not-started", said, "error", error__type=type(error).__qualname__)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m mlplatform.serving.main", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--folder", type=Path, required=True, help="the endpoint's folder, with routes.json")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="0 for any free one")
    parser.add_argument("--workers", type=_positive, default=1)
    parser.add_argument("--adopt", action="store_true", help="take over the port that is kept in the folder")
    parser.add_argument("--behind-proxy", action="store_true", help="allow a wide address without TLS")
    add_port(parser)
    add_limits(parser)
    add_guards(parser)
    add_telling(parser)
    return parser


def _positive(text: str) -> int:
    if (value := int(text)) < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return value


if __name__ == "__main__":
    sys.exit(main())
