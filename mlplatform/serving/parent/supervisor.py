"""Keeps the workers of a server running, and brings other settings into effect without a failed request.

A worker that dies is started again on the same socket, so that connections that wait in its queue are answered by the
next one. Other settings (SIGUSR1, see `settings`) are tried in one new worker beside the others; once that one serves
what they serve, each gets a successor on its socket, and ends when that one is ready.
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
from mlplatform.serving.metrics import Ended
from mlplatform.serving.parent.handover import Door
from mlplatform.serving.parent.listening import listen, listen_beside, steer
from mlplatform.serving.parent.settings import Settings, Wish
from mlplatform.serving.parent.workers import Child, Place, spawn

LONGEST_PAUSE_SECONDS = 5.0
TRIAL_SECONDS = 30.0
"""A worker with new settings serves by then what the others serve, or the settings are refused."""
HANDSHAKE_SECONDS = 1.0
"""A socket that gets no more connections is open for so long: those that are half-way there still arrive."""
TICK_SECONDS = 0.05
AGAIN_SECONDS = 1.0
"""After a worker could not even be started."""


class Supervisor:
    """The parent of a server's workers."""

    def __init__(
        self,
        folder: Path,
        listeners: Sequence[socket.socket],
        settings: Settings,
        keeper: Path | None = None,
        dropped_lines: Callable[[], int] = lambda: 0,
    ) -> None:
        """`dropped_lines`: of the log of all processes, so far."""
        self._folder, self._settings, self._keeper = folder, settings, keeper
        self._dropped_lines = dropped_lines
        self._places = [Place(listener, number) for number, listener in enumerate(listeners)]
        """As many as the settings say; more at first where a port was taken over that has more sockets."""
        self._leaving: list[tuple[float, Place]] = []
        """Places that are given up at a time."""
        self._retired: list[Child] = []
        """Told to end; others have taken over from them."""
        self._narrow = False
        """Sockets whose workers have yet to start get no connections."""
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
        self._ended = Ended(self._folder, len(self._places))
        for place in self._places:
            place.child = self._spawn(place, self._settings)
        self._announce()
        said = f"serving {self._folder.name} on {self._address} with {len(self._places)} worker(s)"
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
                self._use_no_more_than_wanted()

    def stop(self) -> None:
        """Let the workers finish their requests; then none is left."""
        places = [*self._places, *(place for _, place in self._leaving)]
        # Who comes when the workers have stopped is refused by the system, and does not wait in vain.
        self._door.close()
        for place in places:
            place.listener.close()
        running = [*(child for place in places for child in place.children), *self._retired]
        for child in running:
            child.cut()  # it learns that nobody takes its place; one that just starts ignores signals
            child.tell_to_end()
        for child in running:
            child.wait_until_ended()
        for path in (self._folder / "workers").glob("*.metrics"):
            path.unlink(missing_ok=True)

    # --- workers ----------------------------------------------------------------------------------------------

    def _tend(self) -> None:
        for place in self._places:
            self._look_after(place)
        self._see_off()
        self._ended.count_dropped(self._dropped_lines())
        if self._narrow and not self._leaving and all(map(self._is_right, self._places)):
            steer(self._listeners, len(self._places))
            self._narrow = False
        self._announce()

    def _look_after(self, place: Place) -> None:
        now = time.monotonic()
        if place.child is not None and place.child.has_ended:
            self._bury(place, place.child, now)
            place.child = None
        if (successor := place.successor) is not None:
            if successor.has_ended:
                self._bury(place, successor, now)
                place.successor = None
            elif place.child is None or successor.why_not(self._folder) is None:
                self._take_over(place, successor)
            elif now > successor.started_at + TRIAL_SECONDS:  # others wait for it
                self._give_up(place, successor, now)
        if now < place.start_again_at or place.successor is not None:
            return
        try:
            self._fill(place)
        except OSError as error:  # no descriptor or no memory left: what runs goes on
            place.start_again_at = now + AGAIN_SECONDS
            logs.limited(
                "worker-not-started", f"a worker is not started: {error}", "error", logs.failure(error)
            )

    def _fill(self, place: Place) -> None:
        """Raises OSError."""
        if place.child is None:
            place.child = self._spawn(place, self._settings)
        elif self._settings.needs_others_than(place.child.settings) and self._nobody_changes():
            place.successor = self._spawn(place, self._settings, waits=True)

    def _give_up(self, place: Place, successor: Child, now: float) -> None:
        self._retire(successor)
        place.successor, place.start_again_at = None, now + LONGEST_PAUSE_SECONDS
        said = f"worker {successor.pid} does not serve after {TRIAL_SECONDS:.0f} s; the one before goes on"
        logs.event("worker-given-up", said, "error")

    def _bury(self, place: Place, child: Child, now: float) -> None:
        code = child.process.returncode
        place.early_deaths = place.early_deaths + 1 if now - child.started_at < 5 else 0
        pause = min(LONGEST_PAUSE_SECONDS, 0.1 * 2**place.early_deaths) if place.early_deaths else 0.0
        place.start_again_at = now + pause
        said = f"worker {child.pid} ended with {code}; starting another in {pause:.1f} s"
        logs.event("worker-died", said, "error", process__exit_code=code)
        self._forget(child, died=True)

    def _take_over(self, place: Place, successor: Child) -> None:
        """Both take connections from one socket for a moment: none has to wait."""
        successor.open()
        if place.child is not None:
            self._retire(place.child)
        place.child, place.successor = successor, None

    def _retire(self, child: Child) -> None:
        child.tell_to_end()
        self._retired.append(child)

    def _see_off(self) -> None:
        now = time.monotonic()
        for at, place in list(self._leaving):
            if now >= at:
                self._leaving.remove((at, place))
                place.listener.close()
                for child in place.children:
                    child.cut()  # it accepts what waits in the queue before it closes the socket
                    self._retire(child)
        for child in list(self._retired):
            if child.has_ended:
                self._retired.remove(child)
                self._forget(child)
            else:
                child.tell_to_end()

    def _forget(self, child: Child, died: bool = False) -> None:
        self._ended.take(child.pid, died)
        (self._folder / "workers" / f"{child.pid}.json").unlink(missing_ok=True)
        child.cut()

    def _nobody_changes(self) -> bool:
        return all(place.successor is None for place in self._places)

    def _is_right(self, place: Place) -> bool:
        """Whether it has a worker with the settings in effect, which serves."""
        child = place.child
        return (
            child is not None
            and not self._settings.needs_others_than(child.settings)
            and child.status(self._folder) is not None
        )

    def _spawn(self, place: Place, settings: Settings, waits: bool = False) -> Child:
        return spawn(self._folder, place, settings, self._keeper, len(self._places), waits)

    # --- other settings ---------------------------------------------------------------------------------------

    def _change(self) -> None:
        wish = Wish.read(self._folder)
        if wish is None:
            return
        try:
            wanted = wish.settings(self._settings)
            if wanted != self._settings:
                self._take(wanted)
        except (MlplatformError, OSError) as error:
            self._refused = {"id": wish.id, "why": str(error)}
            logs.event("settings-refused", f"other settings were refused: {error}", "error")

    def _take(self, wanted: Settings) -> None:
        """Put settings into effect, once one worker serves with them. Raises MlplatformError, OSError."""
        moves = (wanted.host, wanted.port) != (self._settings.host, self._port) and wanted.port != 0
        places = self._moved(wanted) if moves else self._resized(wanted.workers)
        fresh = [place for place in places if place not in self._places]
        try:
            trial = self._tried(places[0], wanted, moves)
        except BaseException:
            for place in fresh:
                place.listener.close()
            raise
        before, self._settings = self._places, wanted
        if trial is not None:
            self._take_over(places[0], trial)
        wanted.telling.configure("parent")
        self._use(places, before, steers=not moves)
        self._narrow = (self._narrow or bool(fresh)) and not moves
        said = f"other settings: {len(places)} worker(s) on {self._address}"
        logs.event("settings-in-effect", said)

    def _use_no_more_than_wanted(self) -> None:
        """Sockets without a worker would let connections wait for ever, so each has one until it is given up."""
        before, wanted = self._places, self._settings.workers
        if len(before) > wanted and all(map(self._is_right, before)):
            self._use(before[:wanted], before, steers=True)

    def _use(self, places: list[Place], before: Sequence[Place], steers: bool) -> None:
        """These from now on; those that are not among them are given up."""
        surplus = [place for place in before if place not in places]
        self._places = places
        self._ended.resize(len(places))
        if surplus and steers:
            steer(self._listeners, len(places))
        self._leaving += [(time.monotonic() + HANDSHAKE_SECONDS, place) for place in surplus]

    def _moved(self, wanted: Settings) -> list[Place]:
        """Places on another address. Those of the one before go on until one worker serves there."""
        if wanted.port == self._port:  # the port is ours already, on another address
            found = [listen_beside(wanted.host, wanted.port) for _ in range(wanted.workers)]
        else:
            found = listen(wanted.host, wanted.port, wanted.workers)
        return [Place(listener, number) for number, listener in enumerate(found)]

    def _resized(self, workers: int) -> list[Place]:
        """Of the places as many as are wanted; new ones get no connection until their workers serve."""
        places = self._places[:workers]
        if len(places) < workers:
            steer(self._listeners, len(self._places))
        for number in range(len(places), workers):
            places.append(Place(listen_beside(self._settings.host, self._port), number))
        return places

    def _tried(self, place: Place, wanted: Settings, moves: bool) -> Child | None:
        """A worker with these settings that serves; None where the ones that run are just as good."""
        if not moves and not wanted.needs_others_than(self._settings):
            return None
        trial = self._spawn(place, wanted, waits=True)
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
        self._retire(trial)
        raise WorldError(what=why)

    # --- what is told -----------------------------------------------------------------------------------------

    @property
    def _listeners(self) -> list[socket.socket]:
        return [place.listener for place in self._places]

    @property
    def _port(self) -> int:
        return int(self._places[0].listener.getsockname()[1])

    @property
    def _address(self) -> str:
        scheme = "https" if self._settings.guards.certificate else "http"
        return f"{scheme}://{self._settings.host}:{self._port}"

    def _announce(self) -> None:
        """Write `server.json` where something in it has changed. On a full disk with the next look."""
        guards = self._settings.guards
        document: dict[str, object] = {
            "pid": os.getpid(),
            "host": self._settings.host,
            "port": self._port,
            "endpoint": self._folder.name,
            "workers": len(self._places),
            "auth": guards.auth,
            "tls": guards.certificate is not None,
            "settings": self._settings.announced(self._port).to_dict(),
            "refused": self._refused,
            "settled": self._is_settled(),
            "changing": any(
                self._settings.needs_others_than(c.settings) for p in self._places for c in p.children
            ),
        }
        if document == self._announced:
            return
        try:
            write_atomically(self._folder / "server.json", json.dumps(document).encode())
            self._announced = document
        except OSError as error:
            said = f"server.json was not written: {error}"
            logs.limited("status-not-written", said, "error", logs.failure(error))

    def _is_settled(self) -> bool:
        """Whether nothing of other settings is left."""
        changing = (
            self._leaving or self._retired or self._narrow or len(self._places) > self._settings.workers
        )
        return not changing and all(map(self._is_right, self._places))

    # --- the clock --------------------------------------------------------------------------------------------

    def _told_to_stop(self, *_: object) -> None:
        self._stopping = True

    def _told_to_change(self, *_: object) -> None:
        self._told = True

    def _wait(self, seconds: float) -> None:
        woken, _, _ = select.select([self._wake, *self._door.handles], [], [], seconds)
        if self._wake in woken:
            os.read(self._wake, 4096)
        if set(self._door.handles) & set(woken):
            self._door.answer(self._listeners)

    def _pause(self) -> float:
        """Seconds until something is due; children that die wake us before."""
        if not self._announced.get("settled"):
            return TICK_SECONDS
        due = [place.start_again_at - time.monotonic() for place in self._places if place.child is None]
        return max(0.0, min(due, default=5.0))
