"""Holding a lease: a heartbeat renews it, a dead holder on this machine is relieved at once."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime

from mlplatform.errors import LeaseHeld, LeaseLost, MlplatformError
from mlplatform.ports.clock import Progress
from mlplatform.ports.state import Lease, Leases


def owner_name(suffix: str) -> str:
    """Who holds: machine, process, and something that tells two holders of one process apart."""
    return f"{os.uname().nodename}:{os.getpid()}:{suffix}"


@contextmanager
def holding(
    leases: Leases,
    name: str,
    owner: str,
    seconds: float = 60.0,
    patience: float = 0.0,
    tell: Progress = lambda line: None,
) -> Iterator[Lease]:
    """Hold a lease for the length of a block; raises LeaseHeld when a living holder keeps it for `patience` seconds.

    `tell` hears once whom it waits for.
    """
    stop, waits = threading.Event(), False
    give_up = time.monotonic() + patience
    while True:
        try:
            lease = _acquire(leases, name, owner, seconds)
            break
        except LeaseHeld as held:
            if time.monotonic() >= give_up:
                raise
            if not waits:
                tell(f"waiting for {held.facts['owner']}, who works on {name}")
            waits = True
            stop.wait(0.1)
    beat = threading.Thread(target=_renew, args=(leases, lease, seconds, stop), daemon=True)
    beat.start()
    try:
        yield lease
    finally:
        stop.set()
        beat.join()
        leases.release(lease)


def _acquire(leases: Leases, name: str, owner: str, seconds: float) -> Lease:
    try:
        return leases.acquire(name, owner, seconds)
    except LeaseHeld as held:
        holder = str(held.facts["owner"])
        if not is_dead(holder):
            raise
        return leases.seize(name, owner, holder, seconds)


def is_held(leases: Leases, name: str, now: datetime) -> bool:
    """Whether somebody who may be alive works under this lease."""
    lease = leases.holder(name)
    return lease is not None and lease.until > now and not is_dead(lease.owner)


def is_dead(owner: str) -> bool:
    """Whether a holder was a process of this machine that is gone. Unknown holders count as alive."""
    node, _, rest = owner.partition(":")
    pid = rest.partition(":")[0]
    if node != os.uname().nodename or not pid.isdigit():
        return False
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return False


def _renew(leases: Leases, lease: Lease, seconds: float, stop: threading.Event) -> None:
    while not stop.wait(seconds / 3):
        try:
            leases.renew(lease, seconds)
        except LeaseLost:
            return  # the guarded updates of whoever holds it now decide; a heartbeat cannot
        except MlplatformError:
            continue  # the database may answer the next beat
