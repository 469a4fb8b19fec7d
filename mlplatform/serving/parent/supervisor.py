"""Keeps the workers of a server running, and brings other settings into effect without a failed request.

A worker that dies is started again on the same socket, so that connections that wait in its queue are answered by the
next one. Other settings (SIGUSR1, see `settings`) are tried in one new worker beside the others; once that one serves
what they serve, each gets a successor on its socket, and ends when that one is ready (`crew`).
"""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from mlplatform.errors import MlplatformError, WorldError
from mlplatform.serving import logs
from mlplatform.serving.files import write_atomically
from mlplatform.serving.parent.crew import TRIAL_SECONDS, Crew
from mlplatform.serving.parent.handover import Door
from mlplatform.serving.parent.listening import listen, listen_beside
from mlplatform.serving.parent.settings import Settings, Wish
from mlplatform.serving.parent.workers import Child, Place

TICK_SECONDS = 0.05


class Supervisor:
    """The parent of a server's workers."""

    def __init__(
        self,
        folder: Path,
        listeners: Sequence[socket.socket],
        settings: Settings,
        keeper: Path | None = None,
        adopted: bool = False,
        dropped_lines: Callable[[], int] = lambda: 0,
    ) -> None:
        """`adopted`: the sockets, from a keeper, which may have them too. `dropped_lines`: of the log of all processes,
        so far."""
        self._folder, self._adopted, self._dropped_lines = folder, adopted, dropped_lines
        self._crew = Crew(folder, listeners, settings, keeper)
        self._refused: dict[str, str] = {}
        self._announced: dict[str, object] = {}
        self._stopping = self._told = False

    def start(self) -> None:
        self._wake, write = os.pipe()
        os.set_blocking(self._wake, False)
        os.set_blocking(write, False)
        signal.set_wakeup_fd(write, warn_on_full_buffer=False)
        signal.signal(signal.SIGTERM, self._told_to_stop)
        signal.signal(signal.SIGINT, self._told_to_stop)
        signal.signal(signal.SIGUSR1, self._told_to_change)
        signal.signal(signal.SIGCHLD, lambda *_: None)  # it has to wake us, no more
        self._door = Door(self._folder)
        self._crew.start()
        self._announce()
        said = f"serving {self._folder.name} on {self._address} with {len(self._crew)} worker(s)"
        logs.event("started", said)

    def watch(self) -> None:
        """Start again whoever dies; returns when we are told to stop."""
        while True:
            self._wait(self._pause())
            if self._stopping:
                return
            if self._told:
                self._told = False
                self._change()
            if not self._stopping:
                self._tend()
                self._crew.use_no_more_than_wanted()

    def stop(self) -> None:
        """Let the workers finish their requests; then none is left."""
        self._door.close()
        self._crew.stop(shared=self._adopted or self._door.has_handed)

    def _tend(self) -> None:
        self._crew.tend(self._dropped_lines())
        self._announce()

    # --- other settings ---------------------------------------------------------------------------------------

    def _change(self) -> None:
        wish = Wish.read(self._folder)
        if wish is None:
            return
        try:
            wanted = wish.settings(self._crew.settings)
            if wanted != self._crew.settings:
                self._take(wanted)
        except (MlplatformError, OSError) as error:
            self._refused = {"id": wish.id, "why": str(error)}
            logs.event("settings-refused", f"other settings were refused: {error}", "error")

    def _take(self, wanted: Settings) -> None:
        """Put settings into effect, once one worker serves with them. Raises MlplatformError, OSError."""
        crew = self._crew
        moves = (wanted.host, wanted.port) != (crew.settings.host, crew.port) and wanted.port != 0
        places = self._moved(wanted) if moves else crew.resized(wanted.workers)
        try:
            trial = self._tried(places[0], wanted, moves)
        except BaseException:
            crew.give_back(places)
            raise
        crew.adopt(wanted, places, trial, moves)
        wanted.telling.configure("parent")
        said = f"other settings: {len(places)} worker(s) on {self._address}"
        logs.event("settings-in-effect", said)

    def _moved(self, wanted: Settings) -> list[Place]:
        """Places on another address. Those of the one before go on until one worker serves there."""
        if wanted.port == self._crew.port:  # the port is ours already, on another address
            found = [listen_beside(wanted.host, wanted.port) for _ in range(wanted.workers)]
        else:
            found = listen(wanted.host, wanted.port, wanted.workers)
        return [Place(listener, number) for number, listener in enumerate(found)]

    def _tried(self, place: Place, wanted: Settings, moves: bool) -> Child | None:
        """A worker with these settings that serves; None where the ones that run are just as good."""
        if not moves and not wanted.needs_others_than(self._crew.settings):
            return None
        trial = self._crew.spawn(place, wanted, waits=True)
        give_up = time.monotonic() + TRIAL_SECONDS
        why = "it was told to stop"
        while not self._stopping:
            self._wait(TICK_SECONDS)
            if not self._stopping:
                self._tend()
            if trial.has_ended:
                why = f"a worker with them ended with {trial.process.returncode}"
                break
            if (found := trial.why_not(self._folder)) is None:
                return trial
            if found or time.monotonic() > give_up:
                why = found or f"a worker with them does not serve after {TRIAL_SECONDS:.0f} s"
                break
        self._crew.retire(trial)
        raise WorldError(what=why)

    # --- what is told -----------------------------------------------------------------------------------------

    @property
    def _address(self) -> str:
        settings = self._crew.settings
        return f"{'https' if settings.guards.certificate else 'http'}://{settings.host}:{self._crew.port}"

    def _announce(self) -> None:
        """Write `server.json` where something in it has changed. On a full disk with the next look."""
        settings = self._crew.settings
        document: dict[str, object] = {
            "pid": os.getpid(),
            "host": settings.host,
            "port": self._crew.port,
            "endpoint": self._folder.name,
            "folder": str(self._folder.absolute()),
            "workers": len(self._crew),
            "auth": settings.guards.auth,
            "tls": settings.guards.certificate is not None,
            "settings": settings.announced(self._crew.port).to_dict(),
            "refused": self._refused,
            "settled": self._crew.is_settled,
            "changing": self._crew.is_mixed,
        }
        if document == self._announced:
            return
        try:
            write_atomically(self._folder / "server.json", json.dumps(document).encode())
            self._announced = document
        except OSError as error:
            said = f"server.json was not written: {error}"
            logs.limited("status-not-written", said, "error", logs.failure(error))

    # --- the clock --------------------------------------------------------------------------------------------

    def _told_to_stop(self, *_: object) -> None:
        self._stopping = True

    def _told_to_change(self, *_: object) -> None:
        self._told = True

    def _wait(self, seconds: float) -> None:
        woken, _, _ = select.select([self._wake, *self._door.handles], [], [], seconds)
        if self._wake in woken:
            os.read(self._wake, 4096)
        self._door.answer(woken, self._crew.listeners)

    def _pause(self) -> float:
        """Seconds until something is due; children that die wake us before."""
        if not self._announced.get("settled"):
            return TICK_SECONDS
        due = self._crew.next_start_at
        return 5.0 if due is None else max(0.0, min(due - time.monotonic(), 5.0))
