"""verify: every chain of the ledger, or one, and whether it still contains the head that was kept elsewhere."""

from __future__ import annotations

import time
from dataclasses import dataclass

from mlplatform.domain.chain import Break, Head, Verification
from mlplatform.errors import DONE, REFUSED, UnknownName
from mlplatform.flows.world import World
from mlplatform.ports.store import Heads


@dataclass(frozen=True)
class Verified:
    """What a look at the ledger found; a broken chain is a result."""

    entries: int
    models: int
    breaks: tuple[Break, ...]
    seconds: float
    entries_per_second: int
    heads: tuple[Head, ...]
    compared: int | None = None
    """Recorded heads that were looked for; None when there was no file of them."""
    written: bool = False
    """Whether the heads of now were recorded."""

    @property
    def holds(self) -> bool:
        return not self.breaks

    @property
    def exit_code(self) -> int:
        return DONE if self.holds else REFUSED


def verify(world: World, model: str | None = None, kept: Heads | None = None) -> Verified:
    """Look at one model's chain, or at all; with `kept`, compare with the heads there and record those of now.

    The recorded heads stay as they are when anything is broken. Raises UnknownName.
    """
    recorded = kept.read() if kept else None
    begin = time.perf_counter()
    found = world.ledger.verify(model, recorded or ())
    seconds = time.perf_counter() - begin
    if model is not None and found == Verification():
        raise UnknownName("model in the ledger", model, world.ledger.models())
    looked_for = [head for head in recorded or () if model in (None, head.model)]
    if kept and found.holds:
        kept.write(_newest(recorded or [], found))
    return Verified(
        entries=found.entries,
        models=len({head.model for head in (*found.heads, *looked_for)}),
        breaks=found.breaks,
        seconds=seconds,
        entries_per_second=round(found.entries / seconds) if seconds else 0,
        heads=found.heads,
        compared=None if recorded is None else len(looked_for),
        written=kept is not None and found.holds,
    )


def _newest(recorded: list[Head], found: Verification) -> list[Head]:
    """Heads of models that were not looked at stay."""
    heads = {head.model: head for head in (*recorded, *found.heads)}
    return [heads[model] for model in sorted(heads)]
