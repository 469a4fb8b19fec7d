"""What every command shares: the `--json` switch, the platform, and printing."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from mlplatform.control import Platform

F = TypeVar("F", bound=Callable[..., Any])

json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
dry_run_option = click.option("--dry-run", is_flag=True, help="Show what would happen, change nothing.")


def reason_option() -> Callable[[F], F]:
    # No default: with one, even None, click takes the option as given.
    return click.option("--reason", required=True, callback=_not_blank, help="Why; kept in the ledger.")


def _not_blank(context: click.Context, parameter: click.Parameter, text: str) -> str:
    if not text.strip():
        raise click.BadParameter("say why in a few words; it is kept in the ledger", context, parameter)
    return text


def platform() -> Platform:
    """The platform of the working directory; progress goes to stderr."""
    from mlplatform.control import Platform

    return Platform.open(".", progress)


def progress(line: str) -> None:
    click.echo(click.style(f"  {line}", dim=True), err=True)


def emit(value: Any, as_json: bool, render: Callable[[Any], None]) -> None:
    """A result as JSON for programs, or as text for people."""
    if as_json:
        from mlplatform.domain.canonical import finite, plain

        click.echo(json.dumps(finite(plain(value)), indent=2, default=str))
    else:
        render(value)


def left_out(p: Platform) -> int:
    """The exit code that says that a policy with mistakes was left out, once all others are done; 0 for none."""
    return max((error.exit_code for error in p.broken), default=0)


def leave(code: int) -> None:
    """End with an exit code that is not an error: a refusal, a wait."""
    if code:
        sys.exit(code)


def only_model(model: str | None) -> str:
    """The model that was named, or the project's only one."""
    from mlplatform.errors import UsageError

    if model:
        return model
    p = platform()
    known = sorted(p.policies)
    if len(p.settings.policies) != 1:
        raise UsageError(what="this project has several models", hint=f"Name one: {', '.join(known)}.")
    return known[0]


class Moment(click.ParamType[datetime]):
    """A time as ISO 8601, in UTC; without a zone it is meant so."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        if isinstance(value, datetime):
            return value
        try:
            moment = datetime.fromisoformat(value)
        except ValueError:
            self.fail(f"{value!r} is not a time; write for example 2026-03-01T12:00:00", param, ctx)
        return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)


def read_table(path: Path) -> dict[str, Any]:
    """Columns of a Parquet or CSV file."""
    from mlplatform.data.tables import ParquetTables

    return ParquetTables().read(path)
