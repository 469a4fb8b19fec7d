"""The sandboxed process: loads one bundle through its runtime, then answers requests, one JSON line each.

Started by `mlplatform.evaluation.process`. Imports only what the bundle's runtime needs.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from mlplatform.sandbox import Limits, enter

if TYPE_CHECKING:
    from mlplatform.ports.extensions import Predictor
    from mlplatform.stats.batch import Batch, Outputs

ROUND_SECONDS = 0.004
"""CPU time of one round of a cost measurement: enough calls that the clock's own cost does not count."""
MOST_CALLS, WANTED_CALLS = 2000, 400
"""Of a latency measurement: a 99th percentile has an upper bound from 368 calls on."""
SHORT_SECONDS, LONGEST_SECONDS = 3.0, 20.0
"""It ends after the first once it has the calls it wants, after the second in any case."""


def main() -> int:
    replies = _keep_stdout()
    model: _Model | None = None
    for line in sys.stdin:
        try:
            request = json.loads(line)
            if request["do"] == "load":
                given_up = enter(Path(request["folder"]), Limits(**request["limits"]))
                model = _Model(Path(request["bundle"]))
                reply: dict[str, Any] = {"given_up": given_up}
            elif model is None:
                raise RuntimeError("asked before a bundle was loaded")
            else:
                reply = getattr(model, request["do"])(**request["with"])
            reply = {"ok": True, "memory_bytes": _peak_memory(), **reply}
        except Exception as error:
            reply = {"ok": False, "cause": _one_line(error)}
        replies.write(json.dumps(reply) + "\n")
        replies.flush()
    return 0


class _Model:
    """A loaded bundle and what it can be asked."""

    def __init__(self, bundle: Path) -> None:
        from mlplatform.catalog import find
        from mlplatform.domain.bundle import Manifest

        manifest = Manifest.decode((bundle / "manifest.json").read_bytes())
        runtime = find("runtime", manifest.runtime)()
        # What runs a model's code would start a process of its own for it; this one is confined already.
        load = getattr(runtime, "load_here", runtime.load)
        self._predictor: Predictor = load(bundle, manifest)
        self._singles: list[Batch] = []
        self._repeats = 0

    def answer(self, table: str, into: str) -> dict[str, Any]:
        """Answer a table."""
        from mlplatform.evaluation import wire

        wire.save_outputs(Path(into), {"batch": self._predictor.predict(wire.load_batch(Path(table)))})
        return {}

    def check(self, table: str, into: str, singles: int) -> dict[str, Any]:
        """Answer a table as one batch and its first rows one by one; the median time of a row."""
        from mlplatform.evaluation import wire
        from mlplatform.stats.typed import rows_of

        batch = wire.load_batch(Path(table))
        whole = self._predictor.predict(batch)
        rows, times = [], []
        for i in range(min(singles, batch.rows)):
            row = rows_of(batch, i, i + 1)
            started = time.perf_counter()
            rows.append(self._predictor.predict(row))
            times.append(time.perf_counter() - started)
        wire.save_outputs(Path(into), {"batch": whole, "alone": _stacked(rows)})
        return {"latency_ms": sorted(times)[len(times) // 2] * 1e3}

    def cost(self, table: str) -> dict[str, Any]:
        """CPU microseconds of one row alone, over one short round; the first call loads the rows and warms
        up.
        """
        if not self._singles:
            warm = self._warm_up(table)
            self._repeats = max(1, int(ROUND_SECONDS / max(warm, 1e-7)))
        return {"cpu_us": self._round(self._repeats) * 1e6}

    def latency(self, table: str) -> dict[str, Any]:
        """Wall-clock and CPU microseconds of single rows, call by call, after a warm-up."""
        self._warm_up(table)
        predict, rows = self._predictor.predict, self._singles
        calls: list[tuple[float, float]] = []
        begun = time.perf_counter()
        while len(calls) < MOST_CALLS:
            row = rows[len(calls) % len(rows)]
            used, started = _cpu_seconds(), time.perf_counter()
            predict(row)
            ended = time.perf_counter()
            calls.append(((ended - started) * 1e6, (_cpu_seconds() - used) * 1e6))
            taken = ended - begun
            if taken > LONGEST_SECONDS or (taken > SHORT_SECONDS and len(calls) >= WANTED_CALLS):
                break
        return {"wall_us": [wall for wall, _ in calls], "cpu_us": [cpu for _, cpu in calls]}

    def _warm_up(self, table: str) -> float:
        """Load the rows, and CPU seconds of one."""
        from mlplatform.evaluation import wire
        from mlplatform.stats.typed import rows_of

        batch = wire.load_batch(Path(table))
        self._singles = [rows_of(batch, i, i + 1) for i in range(batch.rows)]
        return self._round(max(len(self._singles), 20))

    def _round(self, repeats: int) -> float:
        predict, rows = self._predictor.predict, self._singles
        started = _cpu_seconds()
        for i in range(repeats):
            predict(rows[i % len(rows)])
        return (_cpu_seconds() - started) / repeats


def _cpu_seconds() -> float:
    """CPU time of all threads. `time.process_time` moves in ticks of milliseconds once RLIMIT_CPU is set."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def _stacked(rows: list[Outputs]) -> Outputs:
    import numpy as np

    from mlplatform.stats.batch import Outputs

    scores = [row.scores for row in rows if row.scores is not None]
    predictions = np.concatenate([np.atleast_1d(row.predictions) for row in rows])
    return Outputs(predictions, np.concatenate(scores) if scores else None)


def _keep_stdout() -> IO[str]:
    """The pipe to the parent; what a model prints goes to stderr, where it cannot be mistaken for an
    answer.
    """
    pipe = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    return pipe


def _peak_memory() -> int:
    """Peak resident bytes of this program alone; `getrusage` would count the parent it was forked from."""
    try:
        text = Path("/proc/self/status").read_text()
        return int(text.split("VmHWM:")[1].split()[0]) * 1024
    except (OSError, IndexError):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _one_line(error: Exception) -> str:
    if isinstance(error, MemoryError):
        return "it needs more memory than it may have"
    text = " ".join(str(error).split())[:500]
    own = type(error).__module__.startswith("mlplatform.")
    return text if own else f"{type(error).__name__}: {text}"


if __name__ == "__main__":
    sys.exit(main())
