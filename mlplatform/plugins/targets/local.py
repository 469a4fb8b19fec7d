"""A model server as a process of its own on this machine. It outlives whoever started it."""

from __future__ import annotations

import fcntl
import http.client
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar
from urllib.parse import urlsplit

from mlplatform.domain.server_settings import ServerSettings, SettingChange, digests, traces_of
from mlplatform.errors import ServerDidNotStart, UsageError, WorldError
from mlplatform.plugins.targets import changing, keeping
from mlplatform.plugins.targets.folder import announced, last_line, left_at, lock_held, lock_pid, send
from mlplatform.plugins.targets.processes import environment, port_before, wait_until_free
from mlplatform.ports.extensions import ServerSpec, ServerState, TlsFiles
from mlplatform.ports.tls import server_context

POLL_SECONDS = 0.02
_children: dict[int, subprocess.Popen[bytes]] = {}
"""Servers that this process started: a parent has to collect their end."""


@dataclass(frozen=True)
class LocalTarget:
    """Port `Target`. A server is ours when it holds the lock of its folder: a pid alone may be used by
    another program.

    start_seconds: how long a new server may take until it answers.
    stop_seconds: how long a server may take to finish its requests before it is killed.
    """

    takes_over_from: ClassVar[frozenset[str]] = frozenset()

    start_seconds: float = 30.0
    stop_seconds: float = 30.0

    def apply(self, desired: ServerSpec) -> ServerState:
        """Start the server, or bring other settings into effect in the one that runs, without a request that fails,
        also on another address: it listens there before it leaves the one before. A port that is kept for it is taken
        over. One whose folder was moved is started again. Returns once it answers `/ping`.

        Raises ServerDidNotStart with the last line of its log; SettingsRefused, and the server that runs goes on as
        before; UsageError for a certificate that cannot be used.
        """
        folder = desired.folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if self.changes(desired) and desired.tls:
                server_context(desired.tls.cert, desired.tls.key)
            if self.status(folder).left_at:
                self.stop(folder)  # nothing that it is told reaches it
            self._change(desired)
            process = None if self.status(folder).running else _start(desired)
        except OSError as error:
            raise WorldError(what=f"The server of {desired.endpoint} cannot be started: {error}") from error
        deadline = time.monotonic() + self.start_seconds
        while not ((state := self.status(folder)).running and answers(state, desired.tls)):
            ended = process is None or process.poll() is not None
            if ended and not lock_held(folder):
                raise _did_not_start(desired, _how_it_ended(process, folder))
            process = (
                None if ended else process
            )  # two started it at the same time: the other's is the one that runs
            if time.monotonic() > deadline:
                raise _did_not_start(
                    desired, f"it does not answer after {self.start_seconds:.0f} s: {last_line(folder)}"
                )
            time.sleep(POLL_SECONDS)
        (folder / "port").write_text(str(state.port))
        keeping.end(folder)
        if self.changes(desired):  # another command's server is the one that runs
            self._change(desired)
            state = self.status(folder)
        return state

    def status(self, folder: Path) -> ServerState:
        """What runs in a folder; not running when nobody holds its lock."""
        found = announced(folder)
        if not found or not lock_held(folder) or found["pid"] != lock_pid(folder):
            return ServerState(folder.name, running=False)
        host, port, pid = str(found["host"]), int(found["port"]), int(found["pid"])
        guards = found.get("auth") is True, found.get("tls") is True
        settings = ServerSettings.of(found.get("settings"))
        return ServerState(folder.name, True, host, port, pid, *guards, settings, left_at(found, folder))

    def changes(self, desired: ServerSpec) -> tuple[SettingChange, ...]:
        """Where traces go is as our environment says, if it says anything."""
        running = self.status(desired.folder).settings
        wanted = replace(desired.settings, traces=digests(traces_of(os.environ)))
        return running.changes(wanted) if running else ()

    def _change(self, desired: ServerSpec) -> None:
        """Bring other settings into effect in a server that runs, or wait until a change that began is through."""
        folder = desired.folder
        with changing.alone(folder):
            running = self.status(folder)
            if not running.running or not (self.changes(desired) or announced(folder).get("changing")):
                return
            patience_seconds = self.start_seconds * (desired.workers + 1) + self.stop_seconds

            def in_effect() -> bool:
                return self.status(folder).running and not self.changes(desired)

            if self.changes(desired):
                wanted, traces = words(desired.settled(running.settings)), traces_of(os.environ)
                changing.tell(folder, wanted, traces, in_effect, patience_seconds)
            else:
                changing.wait(folder, in_effect, patience_seconds)

    def stop(self, folder: Path, keep_port: bool = False) -> None:
        """End the server: it finishes its requests first. Returns when it is gone; nothing happens when
        there is none. Its port is free then, unless somebody took it over."""
        pid = lock_pid(folder)
        if pid and lock_held(folder):
            self._end(pid, folder)
        _forget(folder)
        changing.forget(folder)
        _collect()
        if not keep_port:
            keeping.end(folder)

    def _end(self, pid: int, folder: Path) -> None:
        send(pid, signal.SIGTERM)
        if not _wait_gone(folder, self.stop_seconds):
            send(pid, signal.SIGKILL)  # its workers follow: they notice that their parent is gone
            if not _wait_gone(folder, self.stop_seconds):
                raise WorldError(what=f"The server of {folder.name} (pid {pid}) does not end")
        if (child := _children.get(pid)) is not None:
            child.wait()


def _collect() -> None:
    """Forget children that have ended."""
    for pid, child in list(_children.items()):
        if child.poll() is not None:
            del _children[pid]


def _start(desired: ServerSpec) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-P", "-m", "mlplatform.serving.main"]
    if keeping.keeps(desired):
        command += [*words(desired), "--adopt"]
    else:
        keeping.end(desired.folder)
        if announced(desired.folder):  # it was killed, and its workers hold the port until they notice
            wait_until_free(desired)
        command += words(replace(desired, port=desired.port or port_before(desired)))
    with (desired.folder / "server.log").open("ab") as log:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd=desired.folder,
            env=environment(),
            start_new_session=True,
        )
    _children[process.pid] = process
    return process


def words(desired: ServerSpec) -> list[str]:
    """A server's command line."""
    found = ["--folder", str(desired.folder.absolute()), "--host", desired.host, "--port", str(desired.port)]
    return [*found, "--workers", str(desired.workers), *behaviour(desired)]


def behaviour(desired: ServerSpec) -> list[str]:
    """What a server demands and tells, in the words of its command line."""
    words = ["--auth" if desired.auth else "--no-auth", "--log-style", "json"]
    words += [*desired.limits.words(), *["--access-log"] * desired.access_log]
    if desired.tls is not None:
        words += ["--tls-cert", str(desired.tls.cert), "--tls-key", str(desired.tls.key)]
    return words + ["--behind-proxy"] * desired.behind_proxy


def answers(state: ServerState, wanted: TlsFiles | None) -> bool:
    """Whether a server is there, and with TLS whether it shows exactly the certificate that it says it runs with.
    Raises UsageError where that one is gone."""
    host, port = urlsplit(state.url).hostname or "", state.port
    tls = state.shown(wanted)
    connection: http.client.HTTPConnection
    try:
        if tls is None:
            connection = http.client.HTTPConnection(host, port, timeout=5)
        else:
            pinned = replace(tls, ca=None).client_context()
            connection = http.client.HTTPSConnection(host, port, timeout=5, context=pinned)
    except FileNotFoundError:
        hint = f"Put it back, or end the server and start it again: mlplatform undeploy {state.endpoint}, then deploy."
        what = f"the server of {state.endpoint} runs with a certificate that is gone: {tls and tls.cert}"
        raise UsageError(hint, what=what) from None
    except OSError:  # half written
        return False
    try:
        connection.request("GET", "/ping")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _forget(folder: Path) -> None:
    """Remove what a killed server announced: it should not run now. Only who holds the lock may do so."""
    try:
        with (folder / "server.lock").open() as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            (folder / "server.json").unlink(missing_ok=True)
    except OSError:
        return  # another one runs already, or none ever did


def _wait_gone(folder: Path, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while lock_held(folder) or _workers_left(folder):
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_SECONDS)
    return True


def _workers_left(folder: Path) -> bool:
    """Whether a worker is still writing: each removes its status file when it ends."""
    return any(
        _pid_alive(int(path.stem)) for path in (folder / "workers").glob("*.json") if path.stem.isdecimal()
    )


def _pid_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return False
    return True


def _how_it_ended(process: subprocess.Popen[bytes] | None, folder: Path) -> str:
    if process is None or process.returncode == 0:
        return "it was stopped meanwhile, as by `mlplatform undeploy`; deploy it again if that was not meant"
    return f"it ended with {process.returncode}: {last_line(folder)}"


def _did_not_start(desired: ServerSpec, cause: str) -> ServerDidNotStart:
    return ServerDidNotStart(endpoint=desired.endpoint, cause=cause, log=desired.folder / "server.log")
