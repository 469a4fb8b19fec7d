"""A click group that knows its commands by name and loads one only when it runs."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from importlib import import_module
from typing import Any, NamedTuple

import click


class Lazy(NamedTuple):
    """Where a command is, and its line in the help: the help loads none of them."""

    place: str
    """`module:attribute`."""
    help: str
    section: str = "Commands"


class LazyGroup(click.Group):
    """`@click.group(cls=LazyGroup, lazy={"promote": Lazy("package.module:promote", "Put a version into a stage.")})`"""

    def __init__(self, *args: Any, lazy: Mapping[str, Lazy], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.lazy = lazy

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.lazy)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self.lazy:
            return None
        module, _, attribute = self.lazy[cmd_name].place.partition(":")
        command: click.Command = getattr(import_module(module), attribute)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and not args[0].startswith("-") and args[0] not in self.lazy:
            close = get_close_matches(args[0], self.lazy, n=1)
            meant = f" Did you mean {close[0]!r}?" if close else f" See `{ctx.command_path} --help`."
            raise click.UsageError(f"There is no command {args[0]!r}.{meant}", ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        sections: dict[str, list[tuple[str, str]]] = {}
        for name, command in self.lazy.items():
            sections.setdefault(command.section, []).append((name, command.help))
        for section, rows in sections.items():
            with formatter.section(section):
                formatter.write_dl(rows)
