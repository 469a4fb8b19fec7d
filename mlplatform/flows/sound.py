"""A version's bytes, before anything is done with them: there, and those that were registered."""

from __future__ import annotations

from typing import Any

from mlplatform.domain.ledger import Entry
from mlplatform.domain.retention import FREED, is_collected
from mlplatform.domain.version import Version
from mlplatform.errors import GoneBytes, UnknownName
from mlplatform.flows.world import World


def demand_bytes(world: World, version: Version) -> None:
    """Raises GoneBytes for bytes that are not there, saying who freed them; ChangedBytes for other ones."""
    try:
        world.bundles.verify(version.digest)
    except UnknownName:
        raise gone(world, version) from None


def has_bytes(world: World, version: Version) -> bool:
    """Whether its bundle is there, whatever is in it."""
    try:
        world.bundles.path(version.digest)
    except UnknownName:
        return False
    return True


def gone(world: World, version: Version) -> GoneBytes:
    """Why a version's bytes are not there, and how to get them back."""
    entries = world.ledger.entries(version.model, kinds=FREED, version=version.number)
    collected = is_collected(entries, version.number)
    why = told(collected) if collected else f"there is no bundle {version.digest[:12]}"
    facts: dict[str, Any] = {"model": version.model, "version": version.number, "run_id": version.run_id}
    if version.parent is not None:
        steps = (version.technique or "").replace("+", ",")
        again = f"mlplatform compress {version.model}@{version.parent} --steps {steps}"
        return GoneBytes(f"Bring them back: {again}", why=why, **facts)
    return GoneBytes(why=why, **facts)


def told(collected: Entry) -> str:
    """One clause on a version's freed bytes."""
    return f"{collected.draft.actor.name} freed them on {collected.at:%Y-%m-%d} ({collected.draft.reason})"
