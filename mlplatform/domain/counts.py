"""What the workers of an endpoint have counted, arm by arm: read from the files that they write beside their status.

<endpoint>/workers/<pid>.metrics     one worker's counters, about once a second
<endpoint>/workers/parent.metrics    those of workers that have ended, and how many were started again
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any

BUCKETS_S = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)
"""Upper bounds of the durations that are counted together; what is above the last has a bucket of its own."""
SHADOW = "shadow"
"""The arm that is asked beside the live one; nobody gets its answers."""


@dataclass(frozen=True)
class Counts:
    """Requests of one version."""

    answered: int = 0
    failed: int = 0
    """Ended with a status from 500 on, or with 429: it was too slow for those that waited."""
    durations: tuple[int, ...] = (0,) * (len(BUCKETS_S) + 1)
    """Requests by how long they took, as `BUCKETS_S` says."""
    refused: int = 0
    """Ended with another status from 400 on: the version could not take what the client sent."""

    @property
    def requests(self) -> int:
        """Those that it took on."""
        return self.answered + self.failed

    @property
    def asked(self) -> int:
        return self.requests + self.refused

    def __add__(self, other: Counts) -> Counts:
        durations = tuple(a + b for a, b in zip(self.durations, other.durations, strict=True))
        refused = self.refused + other.refused
        return Counts(self.answered + other.answered, self.failed + other.failed, durations, refused)

    def since(self, before: Counts) -> Counts:
        """What came after `before`; all of it, where the server was started again in between and counts anew."""
        durations = tuple(a - b for a, b in zip(self.durations, before.durations, strict=True))
        answered, failed = self.answered - before.answered, self.failed - before.failed
        refused = self.refused - before.refused
        return (
            self
            if min(answered, failed, refused, *durations) < 0
            else Counts(answered, failed, durations, refused)
        )

    def slower_than(self, seconds: float) -> int:
        """Requests that surely took longer: those above the first bound that is not below `seconds`."""
        at = next((i for i, bound in enumerate(BUCKETS_S) if bound >= seconds), len(BUCKETS_S) - 1)
        return sum(self.durations[at + 1 :])

    def median_s(self) -> float:
        """The bound that at least half of the requests kept; infinite where they took longer than all bounds."""
        total = sum(self.durations)
        sums = zip((*BUCKETS_S, float("inf")), accumulate(self.durations), strict=True)
        return next((bound for bound, n in sums if 2 * n >= total), float("inf"))


@dataclass(frozen=True)
class Split:
    """The requests of one step of a rollout, by the version that they came to."""

    share: float
    """The version's share of them. 0: it was a shadow, asked what the incumbent had answered."""
    mine: Counts
    """Of the version that is rolled out."""
    theirs: Counts
    """Of its incumbent."""


@dataclass(frozen=True)
class Counted:
    """All that the workers of an endpoint counted, those too that have ended."""

    arms: Mapping[tuple[str, int, str], Counts] = field(default_factory=dict)
    """By model, version and arm."""
    shadows: Mapping[tuple[str, int, str], int] = field(default_factory=dict)
    """Rows by model, version and what came of them: `agree`, `disagree`, `failed`, `skipped`."""
    memory_bytes: Mapping[str, int] = field(default_factory=dict)
    """What each running worker takes, by its number."""
    restarts: int = 0
    """Workers that ended and were started again."""
    server: str = ""
    """Another one after each start of the server, which counts anew then; empty where that is not known."""

    def of(self, model: str, version: int) -> Counts:
        """A version's requests over all arms but the shadow's, whose answers nobody gets."""
        mine = (c for (m, v, arm), c in self.arms.items() if (m, v) == (model, version) and arm != SHADOW)
        return sum(mine, Counts())

    def of_shadow(self, model: str, version: int) -> Counts:
        """Requests that a version was asked beside the live one."""
        return self.arms.get((model, version, SHADOW), Counts())

    @classmethod
    def read(cls, documents: Iterable[Mapping[str, Any]]) -> Counted:
        """Add up the files' contents; KeyError, TypeError or ValueError for what is none of them."""
        whole = list(documents)
        ended = {name for document in whole for name in document.get("taken", ())}
        arms: dict[tuple[str, int, str], Counts] = {}
        shadows: dict[tuple[str, int, str], int] = {}
        memory: dict[str, int] = {}
        for document in whole:
            if document["id"] in ended:
                continue  # the parent's file has it, and it is about to go
            for series in document["series"]:
                model, version, arm, _ = series["label"]
                if model:
                    key = (model, int(version), arm)
                    arms[key] = arms.get(key, Counts()) + _counts(series)
            for model, version, outcome, rows in document["shadows"]:
                shadows[model, int(version), outcome] = shadows.get((model, int(version), outcome), 0) + rows
            now = document["now"]
            if now.get("memory_bytes"):
                memory[str(now["worker"])] = int(now["memory_bytes"])
        restarts = sum(document.get("restarts", 0) for document in whole)
        server = next((str(document["id"]) for document in whole if "restarts" in document), "")
        return cls(arms, shadows, memory, restarts, server)


def _counts(series: Mapping[str, Any]) -> Counts:
    statuses = series["statuses"]
    answered = sum(n for status, n in statuses if status < 400)
    failed = sum(n for status, n in statuses if status >= 500 or status == 429)
    # What is refused before a version is chosen (401, 403, 413 and the like) counts for no version.
    refused = sum(n for status, n in statuses) - answered - failed
    return Counts(answered, failed, tuple(series["buckets"]), refused)
