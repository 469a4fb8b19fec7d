"""What became of labels, as text."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from mlplatform.ports.data import KeptAside, Labelled


def kept_aside(item: KeptAside) -> None:
    """Labels that do not fit, some by name."""
    for bad in item.examples:
        click.secho(f"  label refused: {bad}", fg="yellow")
    if item.labels > len(item.examples):
        click.secho(f"  and {item.labels - len(item.examples)} more", fg="yellow")


def labelled(item: Labelled) -> None:
    """How many labels became what, and those that were not taken."""
    told = [f"{item.matched} matched", f"{item.pending} pending", f"{item.repeated} repeated"]
    told.append(f"{item.conflicting} conflicting")
    others = {"replaced": item.replaced, "empty": item.empty, "refused": item.refused}
    others["of an unknown class"] = item.unknown_class
    click.echo(", ".join([*told, *(f"{count} {word}" for word, count in others.items() if count)]))
    for bad in item.bad:
        click.secho(f"  {bad}", fg="yellow")
    if (more := item.refused + item.unknown_class - len(item.bad)) > 0:
        click.secho(f"  and {more} more", fg="yellow")
    for hint in _label_hints(item):
        click.echo(click.style(f"  -> {hint}", dim=True))


def _label_hints(item: Labelled) -> list[str]:
    hints = []
    if item.refused or item.unknown_class:
        hints.append("Those were not joined, the others were. Correct them and send them again.")
    if item.unknown_class:
        hints.append("If such classes are real, write `new_classes = true` under [data] of the policy.")
    if item.conflicting:
        hints.append("The labels from before stay. To correct them: mlplatform label ... --replace")
    return hints
