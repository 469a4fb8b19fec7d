"""The command that looks at the ledger itself: verify."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from mlplatform.cli import render
from mlplatform.cli.common import emit, json_option, leave, platform

if TYPE_CHECKING:
    from mlplatform.flows.verify import Verified

SHOWN_BREAKS = 20


@click.command()
@click.argument("model", required=False)
@click.option(
    "--head",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Compare with the heads in this file, then record those of now; keep it away from the database.",
)
@json_option
def verify(model: str | None, head: Path | None, as_json: bool) -> None:
    """Look at every entry of the ledger: nothing was edited, deleted, inserted, reordered or cut off.

    \b
    mlplatform verify
    mlplatform verify churn --head /mnt/audit/heads.jsonl
    """
    found = platform().verify(model, head)
    emit(found, as_json, lambda _: _verified(found, head))
    leave(found.exit_code)


def _verified(found: Verified, head: Path | None) -> None:
    rows = [(b.model, b.seq, b.why) for b in found.breaks[:SHOWN_BREAKS]]
    if rows:
        render.table(("model", "entry", "what is wrong"), rows)
    if more := len(found.breaks) - len(rows):
        click.echo(f"and {more:,} more")
    how_fast = f"{found.seconds:.2f} s, {found.entries_per_second:,} entries/s"
    word = click.style("hold", fg="green") if found.holds else click.style("do not hold", fg="red")
    click.echo(f"{_count(found.entries, 'entries')} of {_count(found.models, 'models')} {word} ({how_fast})")
    if head:
        click.echo(_told_of_heads(found, head))


def _told_of_heads(found: Verified, head: Path) -> str:
    if not found.holds:
        return f"{head} stays as it is; restore a backup that contains its heads"
    if found.compared is None:
        return f"{head} is new: there was no earlier head to compare with"
    return f"{head}: what it recorded of {_count(found.compared, 'models')} is in the chains; it has the heads of now"


def _count(number: int, nouns: str) -> str:
    """
    >>> _count(1, "entries"), _count(2, "models")
    ('1 entry', '2 models')
    """
    noun = {"entries": "entry", "models": "model"}[nouns] if number == 1 else nouns
    return f"{number:,} {noun}"
