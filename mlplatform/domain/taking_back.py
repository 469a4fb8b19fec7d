"""Which version may return to a stage, what that changes, and what once took it out. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from mlplatform.domain.ladder import (
    REJECTED,
    RETIRED,
    ROLLED_BACK,
    STANDBY,
    Change,
    Ladder,
    Standings,
    is_stage,
)
from mlplatform.domain.ledger import Entry
from mlplatform.errors import IllegalMove


def rollback(
    ladder: Ladder,
    standings: Standings,
    stage: str,
    to: int,
    tenures: Sequence[int] | None = None,
    named: bool = False,
) -> list[Change]:
    """The changes that take a stage's holder out and put an earlier version back; IllegalMove says why not.

    `tenures`: versions that held the stage, from the ledger; with it a version that held only another stage is refused.
    `named`: a person says `to`. Then, and only then, a version returns that was itself rolled back: that may have been
    the mistake. Whoever stood in for it since is no worse for that, and stays one to go back to.
    """
    ladder.rank(stage)
    holder, origin = standings.holder(stage), standings.place(to)
    if found := _obstacle(standings, stage, to, tenures, named):
        why, hint = found
        raise IllegalMove(hint, model=standings.model, version=to, origin=origin, target=stage, why=why)
    undone = origin == ROLLED_BACK and tenures is not None and list(tenures[-2:]) == [to, holder]
    leaving = [Change(holder, stage, RETIRED if undone else ROLLED_BACK)] if holder is not None else []
    return [*leaving, Change(to, origin, stage)]


def _obstacle(
    standings: Standings, stage: str, to: int, tenures: Sequence[int] | None, named: bool
) -> tuple[str, str] | None:
    """Why a version cannot return, and the next step."""
    origin, ref = standings.place(to), f"{standings.model}@{to}"
    held = f"Who held it: mlplatform history {standings.model} --stage {stage}"
    if origin == stage:
        return "it is live already", held
    if (tenures is not None and to not in tenures) or not (
        is_stage(origin) or origin in (RETIRED, STANDBY, ROLLED_BACK, REJECTED)
    ):
        return f"only a version that once held {stage} can return", held
    if is_stage(origin):
        return f"it is in {origin} by now", f"Promote it: mlplatform promote {ref} {stage} --reason ..."
    if origin == REJECTED:
        return "a version that was rejected stays out", f"Its history: mlplatform show {ref}"
    if origin == ROLLED_BACK and not named:
        by_name = f"mlplatform rollback {standings.model} --stage {stage} --to {to} --reason ..."
        return "it was rolled back itself", f"If that was a mistake: {by_name}"
    return None


def taken_back(entries: Sequence[Entry], version: int) -> Entry | None:
    """The entry that took a version out which returns now; None for one that was not rolled back.

    `entries`: of `MOVES`, oldest first.
    """
    moves = [(entry, c.target) for entry in entries for c in entry.draft.changes if c.version == version]
    return moves[-1][0] if moves and moves[-1][1] == ROLLED_BACK else None
