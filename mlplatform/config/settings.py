"""Where a project keeps its things: environment beats `mlplatform.toml` beats default; `doctor` shows which."""

from __future__ import annotations

import getpass
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mlplatform.config.mistakes import TomlFile, unknown
from mlplatform.domain.duration import duration
from mlplatform.errors import NoProject, UnusableHome, UsageError

FILE_NAME = "mlplatform.toml"
KEYS = ("home", "tracking_uri", "database_url", "policies", "actor", "token_file", "mlflow_patience")
"""Of the file; in the environment each is `MLPLATFORM_` and the key in capitals."""


@dataclass(frozen=True)
class Setting:
    """One setting as `doctor` shows it, passwords masked."""

    name: str
    value: str
    source: str
    """`environment MLPLATFORM_HOME`, `mlplatform.toml line 3` or `default`."""


@dataclass(frozen=True)
class Settings:
    root: Path
    """The project's folder: the nearest one upwards with a `mlplatform.toml`."""
    home: Path
    """Everything the platform writes; deleting it deletes everything of an embedded installation."""
    tracking_uri: str
    database_url: str
    policies: tuple[Path, ...]
    actor: str
    """Who acts when no token says otherwise: unverified."""
    token_file: Path | None = None
    """File with a token, when the environment has none in MLPLATFORM_TOKEN."""
    mlflow_patience: str = "20s"
    """How long one request to MLflow may take, and how long failing ones are repeated."""
    artifact_root: Path | None = None
    """Where MLflow without a server keeps files; None with a server, which has its own place."""
    origins: Mapping[str, str] = field(default_factory=dict)

    def make_home(self) -> None:
        """Raises UnusableHome. One level only: a mistyped path should fail, not make folders."""
        try:
            self.home.mkdir(exist_ok=True)
        except OSError as error:
            cause = "it is a file" if self.home.is_file() else error.strerror or str(error)
            source = self.origins.get("home", "default")
            raise UnusableHome(home=str(self.home), source=source, cause=cause) from None

    def sources(self) -> list[Setting]:
        """Every setting with its value and where that came from."""
        values = {key: _text(getattr(self, key)) for key in KEYS}
        found = f"the folder with {FILE_NAME}"
        settings = [Setting(key, masked(value), self.origins[key]) for key, value in values.items()]
        return [Setting("root", str(self.root), found), *settings]


def load_settings(start: Path | None = None, environment: Mapping[str, str] | None = None) -> Settings:
    """The settings of the project around a folder. Raises NoProject, or BadPolicy with every mistake of the file.

    Relative paths, also those in `sqlite:///` addresses, are taken from the project's root.
    """
    environment = os.environ if environment is None else environment
    root = find_root(start or Path.cwd())
    file = TomlFile.read(root / FILE_NAME)
    _check(file)
    file.finish()
    given = {key: found for key in KEYS if (found := _given(key, file, environment))}
    chosen = {key: value for key, (value, _) in given.items()}
    home = root / str(chosen.get("home", ".mlplatform"))
    tracking_uri = _absolute(chosen.get("tracking_uri", f"sqlite:///{home / 'mlflow.db'}"), root)
    served = tracking_uri.startswith(("http://", "https://"))
    return Settings(
        root=root,
        home=home,
        tracking_uri=tracking_uri,
        database_url=_absolute(chosen.get("database_url", f"sqlite:///{home / 'platform.db'}"), root),
        policies=tuple(root / path for path in chosen.get("policies", ["policy.toml"])),
        actor=chosen.get("actor") or f"os:{_user()}",
        token_file=root / Path(chosen["token_file"]).expanduser() if "token_file" in chosen else None,
        mlflow_patience=_duration("mlflow_patience", given.get("mlflow_patience", ("20s", "default"))),
        artifact_root=None if served else home / "mlartifacts",
        origins={key: given[key][1] if key in given else "default" for key in KEYS},
    )


def find_root(start: Path) -> Path:
    """The nearest folder upwards with a `mlplatform.toml`; raises NoProject."""
    start = start.resolve()
    for folder in (start, *start.parents):
        if (folder / FILE_NAME).is_file():
            return folder
    raise NoProject(folder=str(start))


def masked(text: str) -> str:
    """An address without its password.

    >>> masked("postgresql://ada:secret@db/ml?password=secret")
    'postgresql://ada:***@db/ml?password=***'
    """
    text = re.sub(r"(://[^:/@\s]*):[^/\s]*@", r"\1:***@", text)
    return re.sub(r"((?:password|token|secret)=)[^&\s]+", r"\1***", text, flags=re.IGNORECASE)


def _check(file: TomlFile) -> None:
    for key, value in file.values.items():
        if key not in KEYS:
            file.note((key,), unknown("key", key, KEYS))
        elif key == "policies":
            if not isinstance(value, list) or not value or not all(isinstance(item, str) for item in value):
                file.note((key,), 'should be a list of files, for example ["policy.toml"]')
        elif not isinstance(value, str) or not value:
            file.note((key,), "should be text in quotes, not empty")


def _given(key: str, file: TomlFile, environment: Mapping[str, str]) -> tuple[Any, str] | None:
    """A setting's value and source, or None when nobody gave it. An empty variable counts as unset."""
    variable = f"MLPLATFORM_{key.upper()}"
    if text := environment.get(variable, "").strip():
        return (text.split(os.pathsep) if key == "policies" else text), f"environment {variable}"
    if key in file.values:
        return file.values[key], f"{FILE_NAME} line {file.line((key,))}"
    return None


def _duration(key: str, given: tuple[str, str]) -> str:
    text, source = given
    try:
        if duration(text).total_seconds() < 0.1:
            raise ValueError(f"{text!r} is too short")
    except ValueError as error:
        raise UsageError(what=f"{key} ({source}): {error}") from None
    return text


def _absolute(address: str, root: Path) -> str:
    match = re.fullmatch(r"(sqlite(?:\+\w+)?:///)(?!/)([^?]+)(.*)", address)
    if not match or match[2].startswith((":memory:", "file:")):
        return address
    return f"{match[1]}{root / match[2]}{match[3]}"


def _text(value: Any) -> str:
    if value is None:
        return "none"
    return ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user number without a name
        return str(os.getuid())
