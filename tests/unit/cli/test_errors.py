"""What a person and a program see when something goes wrong."""

from __future__ import annotations

import json
import traceback
from collections.abc import Callable

import click
import pytest

from mlplatform.cli.lazy import Lazy, LazyGroup
from mlplatform.cli.main import run
from mlplatform.errors import (
    BadPolicy,
    LeaseHeld,
    MlflowUnreachable,
    MlplatformError,
    Refused,
    UnknownName,
    Waiting,
)

Fail = Callable[[BaseException], click.Command]


@pytest.fixture
def failing() -> Fail:
    def command(error: BaseException) -> click.Command:
        @click.command()
        @click.option("--json", "as_json", is_flag=True)
        def fail(as_json: bool) -> None:
            raise error from error.__cause__

        return fail

    return command


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (UnknownName("model", "chrn", ["churn"]), 2),
        (Refused(what="the gate said no"), 3),
        (Waiting(what="an approval is wanted"), 4),
        (LeaseHeld(name="churn", owner="ada", until="noon"), 5),
        (MlflowUnreachable(uri="http://x", cause="refused"), 6),
        (KeyboardInterrupt(), 130),
        (ZeroDivisionError("by zero"), 1),
        (click.UsageError("no such thing"), 2),
    ],
)
def test_each_family_has_its_exit_code(error: BaseException, code: int, failing: Fail) -> None:
    assert run([], failing(error)) == code


def test_an_error_is_one_line_and_its_hint(failing: Fail, capsys: pytest.CaptureFixture[str]) -> None:
    run([], failing(UnknownName("model", "chrn", ["churn"])))
    assert capsys.readouterr().err.splitlines() == ["There is no model named 'chrn'", "Did you mean 'churn'?"]


def test_causes_follow_one_line_each(failing: Fail, capsys: pytest.CaptureFixture[str]) -> None:
    error: MlplatformError = MlflowUnreachable(uri="http://x", cause="no route")
    error.__cause__ = OSError("cable pulled\nand more")
    error.__cause__.__cause__ = ValueError("the cat")
    run([], failing(error))
    lines = capsys.readouterr().err.splitlines()
    assert lines[1:3] == ["  caused by OSError: cable pulled", "  caused by ValueError: the cat"]


def test_each_mistake_of_a_file_has_its_own_line(failing: Fail, capsys: pytest.CaptureFixture[str]) -> None:
    run([], failing(BadPolicy("policy.toml", ["line 1: a: unknown key", "line 2: b: missing"])))
    assert capsys.readouterr().err.splitlines()[:3] == [
        "policy.toml has 2 mistake(s):",
        "  line 1: a: unknown key",
        "  line 2: b: missing",
    ]


def test_a_bug_is_one_line_that_asks_to_be_reported(
    failing: Fail, capsys: pytest.CaptureFixture[str]
) -> None:
    run([], failing(ZeroDivisionError("by zero")))
    first, second = capsys.readouterr().err.splitlines()
    assert first == "mlplatform failed: ZeroDivisionError: by zero"
    assert "--traceback" in second


def test_traceback_lets_the_error_through(failing: Fail) -> None:
    with pytest.raises(ZeroDivisionError):
        run(["--traceback"], failing(ZeroDivisionError("by zero")))


def test_programs_get_one_json_object(failing: Fail, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--json"], failing(UnknownName("model", "chrn", ["churn"]))) == 2
    told = json.loads(capsys.readouterr().err)
    assert (told["error"], told["name"], told["hint"]) == ("unknown_name", "chrn", "Did you mean 'churn'?")


def test_a_command_leaves_with_its_own_code() -> None:
    @click.command()
    def refuse() -> None:
        raise SystemExit(3)

    assert run([], refuse) == 3


def test_commands_load_only_when_they_run_and_help_names_them(capsys: pytest.CaptureFixture[str]) -> None:
    group = LazyGroup(
        "things",
        lazy={
            "nowhere": Lazy("mlplatform.no.such.module:nowhere", "Its module does not exist.", "First"),
            "thing": Lazy(f"{__name__}:thing", "A thing.", "Second"),
        },
    )
    assert run(["--help"], group) == 0
    shown = capsys.readouterr().out
    assert "First:" in shown and "Its module does not exist." in shown
    assert run(["thng"], group) == 2
    assert "Did you mean 'thing'?" in capsys.readouterr().err
    assert run(["nowhere"], group) == 1


def test_every_command_of_the_table_can_be_loaded() -> None:
    from mlplatform.cli.main import cli

    context = click.Context(cli)
    for name in cli.list_commands(context):
        command = cli.get_command(context, name)
        assert isinstance(command, click.Command), name
        assert command.help, f"{name} has no help"


def test_a_hint_is_a_note_of_the_traceback_and_printed_once(
    failing: Fail, capsys: pytest.CaptureFixture[str]
) -> None:
    error = UnknownName("model", "chrn", ["churn"])
    assert "".join(traceback.format_exception(error)).rstrip().endswith("Did you mean 'churn'?")
    run([], failing(error))
    assert capsys.readouterr().err.count("Did you mean") == 1
