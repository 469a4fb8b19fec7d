"""Commands that keep an installation small: gc."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from mlplatform.cli import render
from mlplatform.cli.common import dry_run_option, emit, json_option, platform

if TYPE_CHECKING:
    from mlplatform.flows.gc import Collection


@click.command()
@dry_run_option
@json_option
def gc(dry_run: bool, as_json: bool) -> None:
    """Free bytes that no stage, rollout, approval, way back or `[gc]` rule protects; the ledger keeps who did.

    \b
    mlplatform gc --dry-run
    mlplatform gc
    """
    emit(platform().gc(dry_run), as_json, _collection)


def _collection(found: Collection) -> None:
    word = "would be freed" if found.dry_run else "freed"
    if found.garbage:
        rows = [(g.name, size(g.size_bytes), g.because) for g in found.garbage]
        render.table((word, "size", "why"), rows)
    kept = f"{len(found.kept)} versions keep their bytes"
    click.echo(f"{word}: {size(found.size_bytes)} ({found.size_bytes:,} bytes); {kept}")
    if found.dry_run and found.kept:
        render.table(("kept", "because"), found.kept.items())


def size(size_bytes: int) -> str:
    """For people, in units of 1000.

    >>> size(1_234_567)
    '1.2 MB'
    """
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size_bytes >= factor:
            return f"{size_bytes / factor:.1f} {unit}"
    return f"{size_bytes} B"
