"""The workers of a server, each in its place: started, started again, replaced by successors, and seen off."""

from __future__ import annotations

import socket
import time
from collections.abc import Sequence
from pathlib import Path

from mlplatform.serving import logs
from mlplatform.serving.metrics import Ended
from mlplatform.serving.parent.listening import listen_beside, steer, turn_away
from mlplatform.serving.parent.settings import Settings
from mlplatform.serving.parent.workers import Child, Place, spawn

TRIAL_SECONDS = 30.0
"""A worker that is to take over serves by then what the others serve, or it is given up."""
LONGEST_PAUSE_SECONDS = 5.0
HANDSHAKE_SECONDS = 1.0
"""A socket that gets no more connections is open for so long: those that are half-way there still arrive."""
AGAIN_SECONDS = 1.0
"""After a worker could not even be started."""


class Crew:
    def __init__(
        self, folder: Path, listeners: Sequence[socket.socket], settings: Settings, keeper: Path | None
    ) -> None:
        self.settings = settings
        """In effect."""
        self._folder, self._keeper = folder, keeper
        self._places = [Place(listener, number) for number, listener in enumerate(listeners)]
        """As many as the settings say; more at first where a port was taken over that has more sockets."""
        self._leaving: list[tuple[float, Place]] = []
        """Places that are given up at a time."""
        self._retired: list[Child] = []
        """Told to end; others have taken over from them."""
        self._narrow = False
        """Sockets whose workers have yet to start get no connections."""
        self._ended = Ended(folder, len(self._places))

    def start(self) -> None:
        for place in self._places:
            place.child = self.spawn(place, self.settings)

    def tend(self, dropped_lines: int) -> None:
        """Take the next step of whatever is due. `dropped_lines`: of the log of all processes, so far."""
        for place in self._places:
            self._look_after(place)
        self._see_off()
        self._ended.count_dropped(dropped_lines)
        if self._narrow and not self._leaving and all(map(self._is_right, self._places)):
            steer(self.listeners, len(self._places))
            self._narrow = False

    def stop(self, shared: bool) -> None:
        """Let the workers finish their requests; then none is left. `shared`: somebody else takes connections from the
        sockets, or keeps them for who will."""
        places = [*self._places, *(place for _, place in self._leaving)]
        # Who comes when the workers have stopped is refused by the system, and does not wait in vain.
        for place in places:
            if not shared:
                turn_away(place.listener)
            place.listener.close()
        running = [*(child for place in places for child in place.children), *self._retired]
        for child in running:
            child.cut()  # it learns that nobody takes its place; one that just starts ignores signals
            child.tell_to_end()
        for child in running:
            child.wait_until_ended()
        for path in (self._folder / "workers").glob("*.metrics"):
            path.unlink(missing_ok=True)

    def spawn(self, place: Place, settings: Settings, waits: bool = False) -> Child:
        """Raises OSError."""
        return spawn(self._folder, place, settings, self._keeper, len(self._places), waits)

    def retire(self, child: Child) -> None:
        child.tell_to_end()
        self._retired.append(child)

    # --- what there is ----------------------------------------------------------------------------------------

    def __len__(self) -> int:
        return len(self._places)

    @property
    def listeners(self) -> list[socket.socket]:
        return [place.listener for place in self._places]

    @property
    def port(self) -> int:
        return int(self._places[0].listener.getsockname()[1])

    @property
    def is_settled(self) -> bool:
        """Whether nothing of other settings is left."""
        changing = self._leaving or self._retired or self._narrow or len(self._places) > self.settings.workers
        return not changing and all(map(self._is_right, self._places))

    @property
    def is_mixed(self) -> bool:
        """Whether a worker has settings that are not in effect."""
        return any(self.settings.needs_others_than(c.settings) for p in self._places for c in p.children)

    @property
    def next_start_at(self) -> float | None:
        """When a place without a worker gets one, on the monotonic clock."""
        return min((place.start_again_at for place in self._places if place.child is None), default=None)

    def _is_right(self, place: Place) -> bool:
        """Whether it has a worker with the settings in effect, which serves."""
        child = place.child
        return (
            child is not None
            and not self.settings.needs_others_than(child.settings)
            and child.status(self._folder) is not None
        )

    # --- other settings ---------------------------------------------------------------------------------------

    def resized(self, workers: int) -> list[Place]:
        """Of the places as many as are wanted; new ones get no connection until their workers serve."""
        places = self._places[:workers]
        if len(places) < workers:
            steer(self.listeners, len(self._places))
        for number in range(len(places), workers):
            places.append(Place(listen_beside(self.settings.host, self.port), number))
        return places

    def give_back(self, places: Sequence[Place]) -> None:
        """Close the sockets of those that did not come into use."""
        for place in places:
            if place not in self._places:
                place.listener.close()

    def adopt(self, settings: Settings, places: list[Place], first: Child | None, moves: bool) -> None:
        """These settings and places from now on. `first` serves with them, in the first place; the others follow.
        `moves`: to sockets of another address, which share no connections with those before."""
        before, self.settings = self._places, settings
        if first is not None:
            self._take_over(places[0], first)
        grows = any(place not in before for place in places)
        self._use(places, before, steers=not moves)
        self._narrow = (self._narrow or grows) and not moves

    def use_no_more_than_wanted(self) -> None:
        """Sockets without a worker would let connections wait for ever, so each has one until it is given up."""
        before, wanted = self._places, self.settings.workers
        if len(before) > wanted and all(map(self._is_right, before)):
            self._use(before[:wanted], before, steers=True)

    def _use(self, places: list[Place], before: Sequence[Place], steers: bool) -> None:
        """These from now on; those that are not among them are given up."""
        surplus = [place for place in before if place not in places]
        self._places = places
        self._ended.resize(len(places))
        if surplus and steers:
            steer(self.listeners, len(places))
        self._leaving += [(time.monotonic() + HANDSHAKE_SECONDS, place) for place in surplus]

    # --- one place --------------------------------------------------------------------------------------------

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
            place.child = self.spawn(place, self.settings)
        elif self.settings.needs_others_than(place.child.settings) and self._nobody_changes():
            place.successor = self.spawn(place, self.settings, waits=True)

    def _nobody_changes(self) -> bool:
        return all(place.successor is None for place in self._places)

    def _take_over(self, place: Place, successor: Child) -> None:
        """Both take connections from one socket for a moment: none has to wait."""
        successor.open()
        if place.child is not None:
            self.retire(place.child)
        place.child, place.successor = successor, None

    def _give_up(self, place: Place, successor: Child, now: float) -> None:
        self.retire(successor)
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

    def _see_off(self) -> None:
        now = time.monotonic()
        for at, place in list(self._leaving):
            if now >= at:
                self._leaving.remove((at, place))
                place.listener.close()
                for child in place.children:
                    child.cut()  # it accepts what waits in the queue before it closes the socket
                    self.retire(child)
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
