"""What servers captured is taken in, and summed up in the cells of each version's own reference."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from datetime import timedelta
from functools import cache
from typing import Any

from mlplatform.domain.duration import duration
from mlplatform.domain.policy import Policy
from mlplatform.domain.version import Version
from mlplatform.flows.probation import version_of
from mlplatform.flows.sound import has_bytes
from mlplatform.flows.world import World
from mlplatform.ports.data import EVERYTHING, Ingested, Profiling, Retention
from mlplatform.stats.spec import ReferenceSpec

DAY, TICK = timedelta(days=1), timedelta(microseconds=1)
NOTHING: Mapping[str, Any] = {"spec": {"columns": {}}, "profile": {"rows": 0, "columns": {}}}


def take_in(world: World, policy: Policy, endpoint: str, keep: Retention = EVERYTHING) -> Ingested:
    """Blocks and labels of an endpoint, with profiles that make the policy's windows sums."""

    @cache
    def spec_of(model: str, number: int) -> ReferenceSpec | None:
        version = version_of(world, model, number)
        if version is None or not has_bytes(world, version):
            return None
        try:
            return ReferenceSpec.from_dict(profile_then(world, version)["spec"])
        except (OSError, ValueError, LookupError, TypeError):
            return None  # changed bytes: whoever judges by them tells it, and no row has to wait for that

    step = slice_length(duration(policy.watch.window))
    return world.observations.ingest(endpoint, keep, Profiling(spec_of, policy.data.time, step))


def slice_length(window: timedelta) -> timedelta:
    """Shorter windows start at multiples of themselves, longer ones at midnight: what both consist of.

    >>> slice_length(timedelta(hours=36))
    datetime.timedelta(seconds=43200)
    """
    return window if window < DAY else math.gcd(window // TICK, DAY // TICK) * TICK


def profile_then(world: World, version: Version) -> Mapping[str, Any]:
    """`spec` and `profile` of the version's reference data; of no column where its bundle holds none."""
    path = world.bundles.path(version.digest) / "reference.json"
    return {**NOTHING, **json.loads(path.read_text())} if path.exists() else NOTHING
