"""The command `mlplatform`: its commands by name, and the one place where errors become lines and exit codes."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import NoReturn

import click

from mlplatform.cli.lazy import LazyGroup
from mlplatform.cli.table import COMMANDS
from mlplatform.errors import BUG, INTERRUPTED, USAGE, MlplatformError


@click.group(
    cls=LazyGroup,
    lazy=COMMANDS,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Exit codes: 0 done, 2 usage, 3 refused, 4 waiting, 5 conflict, 6 the world failed, 130 interrupted,"
    " 1 our bug.",
)
@click.version_option(package_name="mlplatform")
@click.option("--traceback", is_flag=True, help="Show where an error comes from.")
def cli(traceback: bool) -> None:
    """Decide, prove, run and watch the models that MLflow tracks."""


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run a command and end the process with its exit code."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    sys.exit(run(arguments))


def run(arguments: Sequence[str], command: click.Command = cli) -> int:
    """Run a command; its exit code. Errors go to stderr: lines for people, one object with `--json`."""
    options = arguments[: arguments.index("--")] if "--" in arguments else arguments
    as_json, traceback = "--json" in options, "--traceback" in options
    wanted = [argument for argument in arguments if argument != "--traceback" or not traceback]
    try:
        result = command.main(wanted, prog_name="mlplatform", standalone_mode=False)
        return result if isinstance(result, int) and not isinstance(result, bool) else 0
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else BUG if end.code else 0
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.ctx.get_help(), err=True)
        return USAGE
    except click.ClickException as error:
        return _usage(error, as_json)
    except MlplatformError as error:
        if traceback:
            raise
        return _ours(error, as_json)
    except (KeyboardInterrupt, click.Abort):
        click.echo("Interrupted.", err=True)
        return INTERRUPTED
    except BrokenPipeError:  # whoever read our output has gone
        sys.stderr.close()
        return 0
    except Exception as error:
        if traceback:
            raise
        return _bug(error, as_json)


def _usage(error: click.ClickException, as_json: bool) -> int:
    context = getattr(error, "ctx", None)
    hint = f"See `{context.command_path} --help`." if context else ""
    _print(error.format_message(), hint, [], {"error": "usage_error"}, as_json)
    return USAGE


def _ours(error: MlplatformError, as_json: bool) -> int:
    mistakes = error.facts.get("mistakes", [])
    message = f"{error.facts['path']} has {len(mistakes)} mistake(s):" if mistakes else str(error)
    _print(message, error.next_step, [*mistakes, *_causes(error)], error.to_dict(), as_json)
    return error.exit_code


def _bug(error: Exception, as_json: bool) -> int:
    message = f"mlplatform failed: {type(error).__name__}: {_first_line(error)}"
    hint = "Run it again with --traceback and report what it shows."
    _print(message, hint, _causes(error), {"error": "bug", "message": message, "hint": hint}, as_json)
    return BUG


def _causes(error: BaseException) -> list[str]:
    """The chain of causes, one line each, without what the message says already."""
    lines, cause = [], error.__cause__
    while cause is not None:
        line = f"caused by {type(cause).__name__}: {_first_line(cause)}"
        if _first_line(cause).lower() not in str(error).lower():
            lines.append(line)
        cause = cause.__cause__
    return lines


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or ["no message"])[0]


def _print(message: str, hint: str, lines: list[str], facts: dict[str, object], as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps({"message": message, "hint": hint, **facts, "causes": lines}), err=True)
        return
    click.secho(message, fg="red", err=True)
    for line in lines:
        click.echo(f"  {line}", err=True)
    if hint:
        click.echo(hint, err=True)
