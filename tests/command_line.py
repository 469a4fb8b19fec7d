"""The commands of the command line, for tests that walk all of them."""

from __future__ import annotations

from collections.abc import Iterator

import click

from mlplatform.cli.main import cli


def commands(group: click.Group = cli, before: str = "") -> Iterator[tuple[str, click.Command]]:
    """Every command under a group with its whole name: ("token add", ...)."""
    for name in group.list_commands(click.Context(group)):
        command = group.get_command(click.Context(group), name)
        assert command is not None
        if isinstance(command, click.Group):
            yield from commands(command, f"{before}{name} ")
        else:
            yield f"{before}{name}", command
