"""A version's bytes and evidence, before anything is done with them: there, and those that were registered."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from mlplatform import catalog
from mlplatform.domain.ledger import Entry, Kind
from mlplatform.domain.policy import Trust
from mlplatform.domain.retention import FREED, is_collected
from mlplatform.domain.version import Version
from mlplatform.errors import ChangedBytes, CodeNotAllowed, GoneBytes, UnknownName
from mlplatform.flows.world import World


def demand_bytes(world: World, version: Version) -> None:
    """Raises GoneBytes for bytes that are not there, saying who freed them; ChangedBytes for other ones."""
    try:
        world.bundles.verify(version.digest)
    except UnknownName:
        raise gone(world, version) from None


def runs_code(runtime: str) -> bool:
    """Whether loading a model of this runtime runs code of the model."""
    return not catalog.find("runtime", runtime).safe


def demand_permitted(trust: Trust, runtime: str, what: str) -> None:
    """Raises CodeNotAllowed for a model that runs code of its own where the policy does not let it."""
    if not trust.code_models and runs_code(runtime):
        raise CodeNotAllowed(what=what, runtime=runtime)


def demand_evidence(world: World, version: Version, *names: str) -> None:
    """Raises ChangedBytes for a file, of those named or of all, that is not the one that its registration recorded.

    Of a version that was registered before hashes were recorded nothing can be said.
    """
    recorded = _recorded(world, version)
    for name in names or recorded:
        if name not in recorded:
            continue
        there = world.bundles.sha256(version.digest, name)
        if there != recorded[name] and there not in _by_equals(world, version, name):
            raise ChangedBytes(what=f"the evidence of {version.ref}", path=name, change="was changed")


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


def _recorded(world: World, version: Version) -> Mapping[str, str]:
    """SHA-256 of each file of the evidence, as the ledger has it."""
    entries = world.ledger.entries(version.model, kinds=(Kind.REGISTERED,), version=version.number)
    found: Mapping[str, str] = entries[0].draft.data.get("evidence", {}) if entries else {}
    return found


def _by_equals(world: World, version: Version, name: str) -> Iterator[str]:
    """What versions of equal bytes recorded: they share a folder, in which the last one left its own evidence."""
    for model in world.ledger.models():
        for other in world.ledger.versions(model):
            if other.digest == version.digest and name in (recorded := _recorded(world, other)):
                yield recorded[name]
