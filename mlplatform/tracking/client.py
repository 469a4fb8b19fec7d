"""MLflow's client, opened on first use, with bounded patience: every call ends, and ends in our errors."""

from __future__ import annotations

import logging
import math
import os
import random
import re
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from mlplatform.errors import MlflowUnreachable, WorldError

T = TypeVar("T")

_PASSING = frozenset({"INTERNAL_ERROR", "TEMPORARILY_UNAVAILABLE", "REQUEST_LIMIT_EXCEEDED", "ABORTED"})
"""Error codes that may go away; MLflow gives INTERNAL_ERROR to a refused connection and to a lost race alike."""
_DEFAULT = threading.Lock()
_URL_VARIABLE = "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT"
_URI_VARIABLE = "MLFLOW_TRACKING_URI"
_ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SKIP_PIP_REQUIREMENTS_CHECK": "true",
    # MLflow's own seven retries take minutes; ours have a deadline and look before they write again.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
}
_CUT_DOWNLOAD = "Failed to download artifacts"
"""What MLflow says, as a missing resource, of a download in which any file failed. Ask first what is there."""
_TIMEOUT_VARIABLE = "MLFLOW_HTTP_REQUEST_TIMEOUT"
"""Seconds; read by MLflow at every request."""


class Missing(Exception):
    """MLflow has no such thing."""


class Exists(Exception):
    """MLflow has a thing of that name already."""


class Mlflow:
    """One MLflow store: a server's address, or an embedded database with its artifact root.

    `artifact_root` is where an embedded store keeps files; None with a server, which has its own place. `patience_s`
    bounds one request, unless MLflow's own variable does, and how long failing ones are repeated: a store that does
    not answer keeps a command no longer than twice that, however many requests it would have made.
    """

    def __init__(
        self,
        tracking_uri: str,
        artifact_root: Path | None = None,
        patience_s: float = 20.0,
        sleep: Callable[[float], None] = time.sleep,
        tell: Callable[[str], None] = lambda line: None,
    ) -> None:
        self.uri = tracking_uri
        self.artifact_root = artifact_root.resolve() if artifact_root else None
        self.patience_s = patience_s
        self._sleep, self._tell = sleep, tell
        self._failing: tuple[float, float] | None = None
        """When the requests began to fail, and when the last one did; None since one was answered."""
        self._until: tuple[float, float] | None = None
        """When what is being done must be over, and how many seconds that was given."""

    @cached_property
    def client(self) -> Any:
        """`mlflow.MlflowClient`. An embedded store's database is made here, once, under MLflow's own file lock."""
        prepare(self.patience_s)
        if self.uri.startswith("sqlite:///"):
            Path(self.uri.removeprefix("sqlite:///")).parent.mkdir(parents=True, exist_ok=True)
        return self._patiently(self._connect, None)

    def call(
        self,
        name: str,
        /,
        *args: Any,
        recheck: Callable[[], Any] | None = None,
        timeout_s: float | None = None,
        **kw: Any,
    ) -> Any:
        """Call a method of the client; failures that may pass are tried again until the deadline.

        `recheck` is asked before each repetition whether the lost call did its work after all: an answer other than
        None ends the matter. Raises Missing, Exists, MlflowUnreachable, and WorldError for what MLflow refuses.
        """
        method = getattr(self.client, name)
        if self._until and time.monotonic() > self._until[0]:
            raise self._unreachable(f"{self._until[1]:.0f} s were not enough, it answers too slowly")
        return self._patiently(lambda: method(*args, **kw), recheck, timeout_s)

    @contextmanager
    def within(self, seconds: float) -> Iterator[None]:
        """What can be finished another time ends in MlflowUnreachable when a slow server lets it take longer."""
        self._until = (time.monotonic() + seconds, seconds)
        try:
            yield
        finally:
            self._until = None

    def experiment(self, name: str) -> str:
        """Id of the experiment, made where it is missing."""
        if found := self.call("get_experiment_by_name", name):
            if found.lifecycle_stage == "deleted":
                self.call("restore_experiment", found.experiment_id)
            return str(found.experiment_id)
        location = str(self.artifact_root / _slug(name)) if self.artifact_root else None
        try:
            return str(self.call("create_experiment", name, artifact_location=location))
        except Exists:
            return str(self.call("get_experiment_by_name", name).experiment_id)

    @contextmanager
    def as_default(self) -> Iterator[None]:
        """Make this store MLflow's process-wide one: a database store asks that one for the model of a new version."""
        import mlflow

        get_uri: Callable[[], str] = mlflow.get_tracking_uri
        with _DEFAULT:
            before = os.environ.get(_URI_VARIABLE)
            os.environ[_URI_VARIABLE] = self.uri
            chosen = get_uri()  # differs where somebody called set_tracking_uri
            try:
                if chosen != self.uri:
                    mlflow.set_tracking_uri(self.uri)
                yield
            finally:
                if chosen != self.uri:
                    mlflow.set_tracking_uri(chosen)
                if before is None:
                    os.environ.pop(_URI_VARIABLE, None)
                else:
                    os.environ[_URI_VARIABLE] = before

    def download(self, uri: str, into: Path) -> None:
        """Copy an artifact folder from a server."""
        from mlflow.artifacts import download_artifacts

        with self.as_default():  # `models:/` addresses are looked up there, whatever `tracking_uri` says
            self._patiently(
                lambda: download_artifacts(artifact_uri=uri, dst_path=str(into), tracking_uri=self.uri), None
            )

    def _connect(self) -> Any:
        from mlflow import MlflowClient

        return MlflowClient(self.uri, self.uri)

    def _patiently(
        self, do: Callable[[], Any], recheck: Callable[[], Any] | None, timeout_s: float | None = None
    ) -> Any:
        patience = self.patience_s if timeout_s is None else timeout_s
        pause, told = 0.1, False
        while True:
            began = time.monotonic()
            try:
                with quiet():
                    answer = do()
                self._failing = None
                return answer
            except Exception as error:
                self._translate(error)
                wait = pause * random.uniform(0.5, 1.5)  # two that collided must not meet again
                if time.monotonic() + wait > self._failing_since(began, patience) + patience:
                    # The next request of the command is tried once.
                    self._failing = (-math.inf, time.monotonic())
                    raise self._unreachable(_cause(error)) from _origin(error)
            if pause > 1 and not told:
                told = True
                self._tell(
                    f"MLflow at {_masked(self.uri)} does not answer yet; waiting up to {patience:.0f} s"
                )
            self._sleep(wait)
            pause = min(pause * 2, 2.0)
            if recheck and (found := recheck()) is not None:
                return found

    def _failing_since(self, began: float, patience: float) -> float:
        """One patience for all requests of a command, and a new one after a quiet time."""
        now = time.monotonic()
        first = self._failing[0] if self._failing and now - self._failing[1] <= patience else began
        self._failing = (first, now)
        return first

    def _unreachable(self, cause: str) -> MlflowUnreachable:
        return MlflowUnreachable(uri=_masked(self.uri), cause=cause)

    def _translate(self, error: Exception) -> None:
        """Return for a failure that may pass; raise for every other."""
        from mlflow.exceptions import MlflowException

        if not isinstance(error, MlflowException):
            if type(error).__module__.partition(".")[0] in (
                "sqlalchemy",
                "requests",
                "urllib3",
            ) or isinstance(error, OSError):
                return
            raise error
        if str(error).startswith(_CUT_DOWNLOAD):
            return
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            raise Missing(one_line(error)) from error
        if error.error_code == "RESOURCE_ALREADY_EXISTS":
            raise Exists(one_line(error)) from error
        if error.error_code not in _PASSING:
            raise WorldError(what=f"MLflow at {_masked(self.uri)} refused: {one_line(error)}") from error


def prepare(timeout_s: float = 20.0) -> None:
    """MLflow's switches, before it is imported; what the user has set stays."""
    if not os.environ.get(_TIMEOUT_VARIABLE, "").strip():
        os.environ[_TIMEOUT_VARIABLE] = str(max(1, math.ceil(timeout_s)))
    for key, value in _ENVIRONMENT.items():
        os.environ.setdefault(key, value)
    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)


@contextmanager
def quiet() -> Iterator[None]:
    """Without the warnings that MLflow draws from the packages it uses, which nobody who calls us can act on, and
    without the addresses that it prints: a command's output is its own."""
    chosen = _URL_VARIABLE in os.environ
    os.environ.setdefault(_URL_VARIABLE, "true")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        if not chosen:
            os.environ.pop(_URL_VARIABLE, None)


def one_line(error: BaseException, width: int = 300) -> str:
    """The first line of a message, not longer than a terminal likes."""
    text = str(error).strip()
    line = text.splitlines()[0] if text else type(error).__name__
    return line if len(line) <= width else line[: width - 3] + "..."


def _cause(error: Exception) -> str:
    """What failed, in one line that names what can be changed."""
    text = str(error)
    if refusal := re.search(r"\[Errno -?\d+\] ([^\"')]+)", text):
        # The operating system's own words; what the packages in between add is several lines of it.
        return refusal[1].lower()
    if re.search(r"timed? ?out", text, re.IGNORECASE):
        seconds = os.environ.get(_TIMEOUT_VARIABLE, "?")
        return f"no answer within {seconds} s; with a slow server set a larger `mlflow_patience`"
    return one_line(error)


def _origin(error: Exception) -> Exception | None:
    """The cause to show, unless the line says all of it."""
    return error if _cause(error) == one_line(error) else None


def _masked(uri: str) -> str:
    head, separator, tail = uri.partition("://")
    return f"{head}{separator}{tail.rpartition('@')[2]}" if separator else uri


def _slug(name: str) -> str:
    return "".join(c if c.isalnum() or c in "-_" else "_" for c in name) or "_"
