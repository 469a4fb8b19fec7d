"""What a scrape finds beside the counters: this worker's table, the workers' processes, the disk."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

from mlplatform.serving.exposition import Host, exposition
from mlplatform.serving.inflight import InFlight
from mlplatform.serving.metrics import total
from mlplatform.serving.models.routes import Router
from mlplatform.serving.processes import Process, process, resident_bytes

PARENT = "parent"


def now(router: Router, flight: InFlight) -> dict[str, Any]:
    """What is so in this worker, as far as `Metrics` does not count it."""
    table = router.table
    arms = [(arm.route, arm.queue.waiting) for arm in table.arms]
    return {
        "pid": os.getpid(),
        "parent": os.getppid(),
        "memory_bytes": resident_bytes(),
        "rejected": router.rejected,
        "behind": bool(router.error),
        "asleep": sorted(table.asleep),
        "failing": sorted(router.failures),
        "in_flight": flight.count,
        "models": len(table.models),
        "arms": [[r.model, str(r.version), r.arm, r.share, waiting] for r, waiting in arms],
        "bundles": [[*key, size_bytes] for key, size_bytes in router.sizes_bytes.items()],
    }


def page(own: dict[str, Any], others: Iterable[Path], folder: Path, openmetrics: bool = False) -> bytes:
    """The exposition of all workers, of which this is one. Reads files: for a thread."""
    counted = total(own, others)
    disk = os.statvfs(folder)
    free, size = disk.f_bavail * disk.f_frsize, disk.f_blocks * disk.f_frsize
    host = Host(_processes(counted.now), free, size, installed_version(), platform.python_version())
    return exposition(counted, host, openmetrics)


@cache
def installed_version() -> str:
    from importlib.metadata import PackageNotFoundError, version  # a tenth of a worker's start

    try:
        return version("mlplatform")
    except PackageNotFoundError:
        return "0+source"


def _processes(workers: Iterable[dict[str, Any]]) -> dict[str, Process]:
    pids: dict[str, int] = {}
    for worker in workers:
        pids[worker["worker"]] = worker.get("pid", 0)
        pids[PARENT] = worker.get("parent", 0)
    return {name: found for name, pid in pids.items() if (found := process(pid)) is not None}
