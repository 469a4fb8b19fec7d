"""gc: what nothing protects is found, recorded in the ledger of its model, and freed. Deciding is `domain.retention`.

The entry comes first: bytes that are gone have always been told of, and what a killed run left is freed by the next.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from mlplatform.domain.duration import duration
from mlplatform.domain.ledger import Actor, Draft, Entry, Kind
from mlplatform.domain.policy import Gc, Policy
from mlplatform.domain.retention import FREED, is_collected, protected, since
from mlplatform.domain.version import Version
from mlplatform.errors import Refused
from mlplatform.flows.labelling import LOOK_BACK
from mlplatform.flows.world import World, failpoint
from mlplatform.ports.store import Stored

GRACE = timedelta(hours=1)
"""A bundle without a version is left that long, whatever the leases say."""


@dataclass(frozen=True)
class Garbage:
    """Something that may be freed."""

    name: str
    """`churn@3`, `bundle 1f2e3d4c5b6a`, or a file."""
    size_bytes: int
    because: str
    versions: tuple[Version, ...] = ()
    stored: tuple[Stored, ...] = ()
    file: Path | None = None


@dataclass(frozen=True)
class Collection:
    """What was freed, or would be; and whose bytes stay, with the reason."""

    garbage: tuple[Garbage, ...]
    kept: Mapping[str, str]
    size_bytes: int
    dry_run: bool


@dataclass
class _Ledgers:
    """What all models' ledgers say of the bytes that lie there."""

    users: dict[str, list[Version]] = field(default_factory=lambda: defaultdict(list))
    """Versions by digest."""
    kept: dict[str, str] = field(default_factory=dict)
    """Why a version's bytes stay, by its name."""
    left: dict[str, str] = field(default_factory=dict)
    """Since when a version is out of service, by its name."""
    cited: set[str] = field(default_factory=set)
    """Evaluations that an entry rests on."""


def plan(world: World, policies: Mapping[str, Policy]) -> Collection:
    """What may be freed now. Changes nothing."""
    ledgers = _read(world, policies)
    keep = max((duration(p.gc.keep) for p in policies.values()), default=duration(Gc().keep))
    garbage = [*_stored(world, ledgers, keep), *_work(world, keep)]
    size = sum(g.size_bytes for g in garbage)
    return Collection(tuple(garbage), dict(sorted(ledgers.kept.items())), size, True)


def collect(world: World, policies: Mapping[str, Policy], actor: Actor) -> Collection:
    """Free it. The caller holds the lease of every model, so that nobody is about to use what is freed.

    Raises Refused when a chain does not hold: what the ledger says decides what is freed.
    """
    if breaks := world.ledger.verify().breaks:
        why = f"entry {breaks[0].seq} of {breaks[0].model} {breaks[0].why}"
        raise Refused(
            "All of them: mlplatform verify", what=f"nothing is freed while the ledger does not hold: {why}"
        )
    found = plan(world, policies)
    for item in found.garbage:
        for version in item.versions:
            _record(world, version, item, actor)
        failpoint("gc:recorded")
        for stored in item.stored:
            world.bundles.remove(stored.digest, stored.name)
            failpoint("gc:removed")
        if item.file:
            item.file.unlink(missing_ok=True)
    return Collection(found.garbage, found.kept, found.size_bytes, False)


def _record(world: World, version: Version, item: Garbage, actor: Actor) -> None:
    entries = world.ledger.entries(version.model, kinds=FREED, version=version.number)
    if is_collected(entries, version.number):
        return  # by one that was killed before it came to the bytes
    data = {"digest": version.digest, "size_bytes": item.size_bytes}
    draft = Draft(version.model, Kind.COLLECTED, version.number, actor, f"gc: {item.because}", data=data)
    world.ledger.append(draft)


# --- gathering ------------------------------------------------------------------------------------------------------


def _read(world: World, policies: Mapping[str, Policy]) -> _Ledgers:
    found, now = _Ledgers(), world.clock.now()
    for model in world.ledger.models():
        standings, entries = world.ledger.standings(model), world.ledger.entries(model)
        reasons = dict.fromkeys(standings.places, f"no policy speaks of {model}")
        if policy := policies.get(model):
            watched = {w.version for w, _ in world.windows.recent(model, LOOK_BACK)}
            active = world.deployments.active(model)
            reasons = protected(policy, standings, entries, active, watched, now)
        moments = since(entries)
        for version in world.ledger.versions(model):
            number = version.number
            found.users[version.digest].append(version)
            if number in reasons:
                found.kept[version.ref] = reasons[number]
            elif number in moments:
                found.left[version.ref] = f"{standings.places[number]} since {moments[number]:%Y-%m-%d}"
        found.cited |= set(_cited(entries))
    return found


def _cited(entries: Sequence[Entry]) -> Iterator[str]:
    for entry in entries:
        data = entry.draft.data
        approval = data.get("approval")
        yield str(data.get("evaluation_id", ""))
        if isinstance(approval, dict):
            yield str(approval.get("evaluation_id", ""))


def _served(world: World) -> set[str]:
    """Digests that servers were told of: those of the project's endpoints, and of others while they run."""
    found = set()
    for endpoint in world.documents.endpoints():
        try:
            routes = world.documents.routes(endpoint)
        except ValueError:  # damaged: what stands in a stage is kept in any case
            continue
        if routes and world.documents.workers(endpoint):
            found |= {route.digest for route in (*routes.routes, *routes.standby)}
    return found


# --- deciding -------------------------------------------------------------------------------------------------------


def _stored(world: World, ledgers: _Ledgers, keep: timedelta) -> list[Garbage]:
    served, now = _served(world), world.clock.now()
    by_digest: dict[str, list[Stored]] = defaultdict(list)
    for item in world.bundles.stored():
        by_digest[item.digest].append(item)
    garbage = []
    for digest, items in by_digest.items():
        users = ledgers.users.get(digest, [])
        stays = digest in served or any(v.ref in ledgers.kept for v in users)
        if not stays and users:
            garbage += _of_versions(ledgers, users, items)
        elif not stays and all(now - item.written_at > GRACE for item in items):
            because = "no version was made of it"
            garbage.append(_made(f"bundle {digest[:12]}", because, items))
        elif stays:
            garbage += _old_answers(ledgers, users, items, now - keep)
    return sorted(garbage, key=lambda g: (not g.versions, [v.number for v in g.versions], g.name))


def _of_versions(ledgers: _Ledgers, users: Sequence[Version], items: Sequence[Stored]) -> list[Garbage]:
    """A bundle that no user of it needs, with its evidence; answers that an entry rests on stay."""
    free = [item for item in items if not _is_cited(ledgers, item)]
    because = "; ".join(ledgers.left.get(v.ref, "") for v in users)
    name = ", ".join(v.ref for v in users)
    return [_made(name, because, free, tuple(users))] if free else []


def _old_answers(
    ledgers: _Ledgers, users: Sequence[Version], items: Sequence[Stored], until: datetime
) -> list[Garbage]:
    old = [i for i in items if _evaluation(i) and not _is_cited(ledgers, i) and i.written_at <= until]
    name = f"old answers of {', '.join(v.ref for v in users)}"
    return [_made(name, "no entry rests on them", old)] if old else []


def _is_cited(ledgers: _Ledgers, item: Stored) -> bool:
    return _evaluation(item) in ledgers.cited - {""}


def _evaluation(item: Stored) -> str:
    """Id of the evaluation whose answers it holds, or ""."""
    begin, end = "evaluation-", ".npz"
    known = item.name.startswith(begin) and item.name.endswith(end)
    return item.name[len(begin) : -len(end)] if known else ""


def _made(name: str, because: str, items: Sequence[Stored], versions: tuple[Version, ...] = ()) -> Garbage:
    return Garbage(name, sum(i.size_bytes for i in items), because, versions, tuple(items))


def _work(world: World, keep: timedelta) -> Iterator[Garbage]:
    """Logs and extra data of trainings that are long over."""
    for path in sorted(world.work.glob("*")):
        facts = path.lstat()
        age = world.clock.now() - datetime.fromtimestamp(facts.st_mtime, UTC)
        if path.is_file() and age >= keep:
            yield Garbage(f"work/{path.name}", facts.st_size, "left by an old training", file=path)
