"""Where a version comes from and what was made of it: a run, the version trained there, compressed children."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from mlplatform.domain.ledger import Entry
from mlplatform.domain.version import Version


@dataclass(frozen=True)
class Node:
    """A version, where it stands, and what was made of it, oldest first."""

    version: Version
    place: str
    children: tuple[Node, ...] = ()


@dataclass(frozen=True)
class Lineage:
    """The family of a version, from the run that trained its first member."""

    root: Node
    before: int | None = None
    """The version that was live when the first member was registered: the one that it may replace."""

    @property
    def first(self) -> Version:
        return self.root.version


def lineage(
    version: Version, versions: Sequence[Version], places: Mapping[int, str], before: int | None = None
) -> Lineage:
    """The family of a version, itself included."""
    ordered = sorted({*versions, version}, key=lambda v: v.number)
    return Lineage(_node(first_of(version, versions), ordered, places), before)


def line_to(version: Version, family: Lineage) -> Lineage:
    """The ancestors of a version and itself alone, without where they stand: what never changes."""
    return Lineage(_line(family.root, version.number) or Node(version, ""), family.before)


def first_of(version: Version, versions: Iterable[Version]) -> Version:
    """The version that was trained: the first of the parents, or the version itself."""
    known = {v.number: v for v in versions}
    first = version
    # A child is registered after its parent; an edited row that says otherwise must not lead in a circle.
    while first.parent in known and known[first.parent].number < first.number:
        first = known[first.parent]
    return first


def holder_after(entries: Iterable[Entry], stage: str) -> int | None:
    """Who held a stage after these entries, oldest first; None when nobody did, or none of them tells."""
    holder = None
    for entry in entries:
        for change in entry.draft.changes:
            if change.origin == stage and change.version == holder:
                holder = None
        holder = next((c.version for c in entry.draft.changes if c.target == stage), holder)
    return holder


def _line(node: Node, number: int) -> Node | None:
    if node.version.number == number:
        return Node(node.version, "")
    below = next((found for child in node.children if (found := _line(child, number))), None)
    return Node(node.version, "", (below,)) if below else None


def _node(version: Version, ordered: Sequence[Version], places: Mapping[int, str]) -> Node:
    children = (v for v in ordered if v.parent == version.number and v.number > version.number)
    made = tuple(_node(child, ordered, places) for child in children)
    return Node(version, places.get(version.number, "-"), made)
