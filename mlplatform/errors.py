"""One family of errors: the facts, one sentence, a next step, an exit code.

The class docstring is the sentence, with the facts as fields, so that code, terminal and docs cannot differ.
A refusal by a gate is a result, not an error: see `mlplatform.domain.verdict`.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from typing import Any, ClassVar

SHOWN_NAMES = 12
"""A hint names no more known names than this."""
DONE, BUG, USAGE, REFUSED, WAITING, CONFLICT, WORLD, INTERRUPTED = 0, 1, 2, 3, 4, 5, 6, 130


class MlplatformError(Exception):
    """Something went wrong"""

    exit_code: ClassVar[int] = WORLD
    hint: ClassVar[str] = ""

    def __init__(self, hint: str = "", **facts: Any) -> None:
        self.facts = facts
        # A given hint may quote what a user wrote, braces and all; only the class's own has places for facts.
        self.next_step = hint or self.hint.format_map(_Facts(facts))
        sentence = " ".join((type(self).__doc__ or "").split())
        super().__init__(sentence.format_map(_Facts(facts)))
        if self.next_step:
            self.add_note(self.next_step)  # a traceback ends with it; the CLI prints `next_step` itself

    @property
    def code(self) -> str:
        """The name of the error in `--json` output: `UnknownModel` becomes `unknown_model`."""
        name = type(self).__name__
        return "".join(("_" if i and c.isupper() else "") + c.lower() for i, c in enumerate(name))

    def to_dict(self) -> dict[str, Any]:
        return {"error": self.code, "message": str(self), "hint": self.next_step, **_plain(self.facts)}


class UsageError(MlplatformError):
    """{what}"""

    exit_code = USAGE


class Refused(MlplatformError):
    """{what}"""

    exit_code = REFUSED


class Waiting(MlplatformError):
    """{what}"""

    exit_code = WAITING


class Conflict(MlplatformError):
    """{what}"""

    exit_code = CONFLICT


class RolloutRunning(Conflict):
    """{version} cannot enter {stage} now: {other} is being rolled out into {into} ({at})"""

    hint = (
        "Wait until it is through, or take it back: mlplatform rollback {model} --stage {into} --reason ..."
    )


class WorldError(MlplatformError):
    """{what}"""

    exit_code = WORLD


# --- things that were named and do not exist ------------------------------------------------------------------


class UnknownName(UsageError):
    """There is no {kind} named {name!r}"""

    def __init__(self, kind: str, name: str, known: Iterable[str] = (), hint: str = "") -> None:
        known = sorted(known)
        super().__init__(hint or nearest(name, known), kind=kind, name=name, known=known)


class BrokenExtension(UsageError):
    """The {kind} {name!r} cannot be loaded from {place}: {cause}"""

    hint = "Install what it needs, or correct the entry point of the package that brings it."


class NoProject(UsageError):
    """No mlplatform.toml in {folder} or any folder above it"""

    hint = "Run `mlplatform init` to make a project here, or `cd` into one."


class BadVersionRef(UsageError):
    """{ref!r} does not name a version"""

    hint = "Write MODEL@VERSION or MODEL@STAGE, for example churn@7 or churn@production."


class BadPolicy(UsageError):
    """{path} has {count} mistake(s): {listing}"""

    hint = "Correct them and run `mlplatform policy check`."

    def __init__(self, path: str, mistakes: Iterable[str]) -> None:
        mistakes = list(mistakes)
        super().__init__(path=path, count=len(mistakes), mistakes=mistakes, listing="; ".join(mistakes))


class BadPolicies(UsageError):
    """{count} policy files have mistakes: {listing}"""

    hint = "Correct them and run `mlplatform policy check`."

    def __init__(self, errors: Iterable[BadPolicy]) -> None:
        errors = list(errors)
        mistakes = [
            f"{error.facts['path']} {mistake}" for error in errors for mistake in error.facts["mistakes"]
        ]
        listing = "; ".join(map(str, errors))
        super().__init__(
            count=len(errors), path=f"{len(errors)} policies", mistakes=mistakes, listing=listing
        )


# --- refusals that have nothing to do with a gate -------------------------------------------------------------


class IllegalMove(Refused):
    """{model}@{version} cannot go from {origin} to {target}: {why}"""


class ChangedBytes(Refused):
    """The bytes of {what} are not those that were registered: {path} {change}"""

    hint = "Nothing was promoted or served. Restore the file, or register the model again as a new version."


class GoneBytes(Refused):
    """The bytes of {model}@{version} are gone: {why}"""

    hint = "Bring them back: mlplatform register {model} --run {run_id}"


class ForgottenModel(Refused):
    """MLflow no longer knows the registered model {model}, of which {count} versions were made"""

    hint = "Somebody deleted or renamed it there. Put it back: mlplatform reconcile {model}"


class UnsafeArtifact(Refused):
    """{path} is refused: {why}"""

    hint = "Log the model again with the mlplatform SDK, in a safe format (ONNX, torch weights, skops)."


class CodeNotAllowed(Refused):
    """{what} runs code of its own (runtime {runtime}), and the policy does not allow that"""

    hint = "Write `code_models = true` under [trust] of its policy, or log it as ONNX, skops or an exported program."


class UnknownColumns(Refused):
    """The policy names {count} column(s) that no request to {version} has: {listing}"""

    hint = (
        "Correct them in the policy: a column that `[capture] drop_columns` misspells would reach the disk."
        " What a request carries beside the features is named under `[data] context`."
    )


class NotACandidate(Refused):
    """Run {run_id} cannot become a version: {missing} missing"""

    hint = "Log it with `mlplatform.log_candidate(model, sample=..., holdout=..., target=...)`; see docs/tutorial.md."


class MistypedToken(UsageError):
    """The token in {source} is mistyped: {why}"""

    hint = "Copy the whole token again."


class RefusedToken(Refused):
    """The token {id} in {source} is refused: {why}"""

    hint = "Nothing was done under another name. Ask an admin for a new one: mlplatform token add NAME --role ROLE."


class OpenTokenFile(UsageError):
    """The token file {path} {why}"""


# --- somebody was faster --------------------------------------------------------------------------------------


class StageConflict(Conflict):
    """{model} changed meanwhile: {stage} is held by version {holder}, expected {expected}"""

    hint = "Look at `mlplatform history {model}` and try again."


class VersionMoved(StageConflict):
    """{model} changed meanwhile: version {version} is in {place}, expected {expected}"""


class LeaseHeld(Conflict):
    """{name} is being worked on by {owner} until {until}"""

    hint = "Wait for it to finish, or for its lease to expire."


class LeaseLost(Conflict):
    """The lease on {name} was taken over by another worker; nothing was changed"""

    hint = "Run the command again."


# --- the world failed -----------------------------------------------------------------------------------------


class MlflowUnreachable(WorldError):
    """MLflow at {uri} does not answer: {cause}"""

    hint = "Start it, or correct `tracking_uri`; `mlplatform doctor` shows where the setting comes from."


class DatabaseUnreachable(WorldError):
    """The database {url} cannot be used: {cause}"""

    hint = "Start it, or correct `database_url`; `mlplatform doctor` shows where the setting comes from."


class NewerDatabase(WorldError):
    """The database was made by a newer release of mlplatform (schema {found}, this release knows {known})"""

    hint = "Upgrade mlplatform: pip install --upgrade mlplatform."


class OlderDatabase(WorldError):
    """The database {url} has schema {found}, this release of mlplatform needs {known}"""

    hint = "Stop what uses it, then run `mlplatform db upgrade`."


class PortInUse(WorldError):
    """Port {port} on {host} is in use by another program"""

    hint = "Choose another as `port` of the endpoint in its policy, or 0 for any free one."


class UnusableHome(UsageError):
    """The setting `home` ({source}) cannot be used: {home}: {cause}"""

    hint = "Name a folder that is there or can be made in one that is: it holds all that the platform writes."


class AlreadyRunning(WorldError):
    """{what} is already running in this project (pid {pid}{address})"""

    hint = "Use the running one, or stop it with Ctrl-C in its terminal."


class ServerDidNotFollow(WorldError):
    """The server of {endpoint} did not put generation {generation} into effect within {seconds} s: {cause}"""

    hint = "Its last good models stay in service. Look at {log}."


class ServerDidNotStart(WorldError):
    """The server of {endpoint} did not start: {cause}"""

    hint = "Look at {log}."


class SettingsRefused(WorldError):
    """The server of {endpoint} goes on with the settings it had: {cause}"""

    hint = "Correct the endpoint in its policy, or free what it needs; then `mlplatform deploy` again. Look at {log}."


class SettingsHalfway(WorldError):
    """After {seconds:.0f} s some workers of the server of {endpoint} still have the settings before"""

    hint = "It goes on trying. Look at {log}, then `mlplatform deploy` again."


class ChildFailed(WorldError):
    """The sandboxed child that {doing} ended with {ending}: {cause}"""


class TrainingFailed(WorldError):
    """The training project {project} ended with {ending}: {cause}"""

    hint = "Its output is in {log}."


class MissingPackage(WorldError):
    """{what} needs the package {package}"""

    hint = "pip install {package}"


class UnreadableTable(WorldError):
    """{path} cannot be read as a table: {cause}"""

    hint = "Give a Parquet file, or a CSV file whose first line names the columns."


class UnwritableTable(WorldError):
    """The table {path} cannot be written: {cause}"""


class HistoryUnusable(WorldError):
    """What was captured in {folder} cannot be used: {cause}"""

    hint = "Restore the folder from a backup; nothing in it was deleted."


def nearest(name: str, known: Iterable[str]) -> str:
    """One sentence that helps with a mistyped name.

    >>> nearest("prodution", ["staging", "production"])
    "Did you mean 'production'?"
    """
    known = sorted(known)
    if close := get_close_matches(name, known, n=1, cutoff=0.6):
        return f"Did you mean {close[0]!r}?"
    more = f" and {len(known) - SHOWN_NAMES} more" if len(known) > SHOWN_NAMES else ""
    return f"Known: {', '.join(known[:SHOWN_NAMES])}{more}." if known else ""


class _Facts(dict[str, Any]):
    """Facts for `str.format_map`; a braces-free sentence for a fact that was not given."""

    def __missing__(self, key: str) -> str:
        return "?"


def _plain(facts: dict[str, Any]) -> dict[str, Any]:
    simple = (str, int, float, bool, type(None), list, dict)
    return {k: v if isinstance(v, simple) else str(v) for k, v in facts.items()}
