"""A model folder before anything of it is loaded: its files, its MLmodel, its requirements. Fails closed."""

from __future__ import annotations

import json
import os
import re
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from mlplatform.domain.signature import foreign_column, foreign_parameter
from mlplatform.errors import Refused, UnsafeArtifact
from mlplatform.trust import scan
from mlplatform.trust.limits import MAX_BYTES, MAX_DEPTH, MAX_FILES, MAX_TEXT, Unsafe

LOADERS = frozenset({"mlflow.sklearn", "mlflow.pytorch", "mlflow.onnx"})
FLAVORS = frozenset({"python_function", "sklearn", "pytorch", "onnx", "mlplatform"})
FORMATS = {"sklearn": "skops", "torch": "pt2", "onnx": "onnx"}
"""The one safe format of each runtime."""
CODE_RUNTIME = "pyfunc"
"""The runtime that runs a model's own code, where a policy lets it."""
NO_PARAMS = (
    "Save it without them; or log the folder that MLflow saved, which the runtime pyfunc runs with them."
)
_REQUIREMENT = re.compile(
    r"[A-Za-z0-9][\w.\-]*(\[[\w,\-]+\])?\s*((==|>=|<=|~=|!=|<|>)\s*[\w.*+!\-]+\s*,?\s*)*"
)


class Inspector:
    """Port Trust."""

    def inspect(self, folder: Path, allow: Sequence[str]) -> None:
        """Raises UnsafeArtifact for the first thing that may not be loaded, Refused for a signature that is not served.
        Runs nothing of the folder.

        `allow`: runtimes permitted by the policy; a model in the format of another one is refused. Of a runtime that
        runs the model's own code there is no saying what a file does: only its form is looked at.
        """
        current = folder
        try:
            if set(allow) == {CODE_RUNTIME}:
                for found_file in _files(folder, code=True):
                    current = found_file
                current = folder / "MLmodel"
                _check_code_model(current)
                _check_signature(current, CODE_RUNTIME)
                return
            wanted = {FORMATS[runtime] for runtime in allow if runtime in FORMATS}
            if not wanted:
                raise Unsafe(f"no safe format is known for runtime {', '.join(allow) or '(none)'}")
            found = set()
            for current in _files(folder):
                found.add(scan.identify(current, current.relative_to(folder)))
            current = folder / "MLmodel"
            _check_mlmodel(current)
            _check_signature(current, ", ".join(allow))
            current = folder
            _check_formats(found, wanted)
        except Unsafe as error:
            raise UnsafeArtifact(path=_relative(current, folder), why=str(error)) from error
        except OSError as error:
            raise UnsafeArtifact(
                path=_relative(current, folder), why=f"it cannot be read: {error}"
            ) from error


def _check_formats(found: set[str], wanted: set[str]) -> None:
    models = found & set(FORMATS.values())
    if foreign := sorted(models - wanted):
        raise Unsafe(f"it holds a {foreign[0]} model, permitted here: {', '.join(sorted(wanted))}")
    if not models:
        raise Unsafe(f"it holds no {' or '.join(sorted(wanted))} model")


# --- files ---


def _files(folder: Path, code: bool = False) -> Iterator[Path]:
    """Regular files below the folder; links, devices, odd modes and names, too many or too much are refused."""
    count = size = 0
    waiting = [(folder, 0)]
    while waiting:
        parent, depth = waiting.pop()
        for entry in sorted(os.scandir(parent), key=lambda e: e.name):
            path, facts = Path(entry.path), entry.stat(follow_symlinks=False)
            name = path.relative_to(folder)
            _check_entry(name, facts, code)
            count, size = count + 1, size + facts.st_size
            if count > MAX_FILES or size > MAX_BYTES:
                raise Unsafe(f"more than {MAX_FILES} files or {MAX_BYTES >> 30} GiB")
            if not stat.S_ISDIR(facts.st_mode):
                yield path
            elif depth < MAX_DEPTH:
                waiting.append((path, depth + 1))
            else:
                raise Unsafe(f"{name} lies deeper than {MAX_DEPTH} folders")


def _check_entry(name: Path, facts: os.stat_result, code: bool) -> None:
    mode = facts.st_mode
    if not all(c.isprintable() and c != "\\" for c in name.name):
        raise Unsafe(f"the name {name.name!r} has odd characters")
    if stat.S_ISLNK(mode):
        raise Unsafe(f"{name} is a symbolic link")
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise Unsafe(f"{name} is neither a file nor a folder")
    if mode & (stat.S_ISUID | stat.S_ISGID) and stat.S_ISREG(mode):
        raise Unsafe(f"{name} is set to run as another user")
    if stat.S_ISREG(mode) and facts.st_nlink > 1:
        raise Unsafe(f"{name} has another name elsewhere (hard link)")
    if stat.S_ISDIR(mode) and name.name == "code" and not code:
        raise Unsafe(f"{name} brings code of its own")


def _relative(path: Path, folder: Path) -> str:
    return folder.name if path == folder else path.relative_to(folder).as_posix()


# --- MLmodel ---


def _check_code_model(path: Path) -> None:
    """An MLmodel that MLflow can load from this folder alone."""
    if "python_function" not in _flavors(path):
        raise Unsafe("it has no flavor python_function, by which models of every kind are loaded")


def _check_mlmodel(path: Path) -> None:
    for name, flavor in _flavors(path).items():
        if name not in FLAVORS:
            raise Unsafe(f"flavor {name!r} is not known")
        _check_flavor(name, flavor)
    content = _load_yaml(path)
    _check_paths(content.get("saved_input_example_info"), "saved_input_example_info")
    requirements = path.parent / "requirements.txt"
    if requirements.is_file():
        _check_requirements(requirements)


def _check_signature(path: Path, runtime: str) -> None:
    signature = _load_yaml(path).get("signature")
    if not isinstance(signature, dict):
        return
    try:
        inputs, params = (json.loads(signature.get(side) or "null") or [] for side in ("inputs", "params"))
        wrong = foreign_column(inputs) or foreign_parameter(params)
        if params and not wrong and runtime != CODE_RUNTIME:
            names = ", ".join(str(spec.get("name")) for spec in params)
            what = (
                f"the model's signature has parameters ({names}), which the runtime {runtime} does not take"
            )
            wrong = what, NO_PARAMS
    except (TypeError, ValueError, RecursionError) as error:
        raise Unsafe(f"its signature is none: {error}") from error
    if wrong:
        raise Refused(what=wrong[0], hint=wrong[1])


def _flavors(path: Path) -> dict[str, dict[str, Any]]:
    if not path.is_file():
        raise Unsafe("there is none: this is not an MLflow model folder")
    content = _load_yaml(path)
    flavors = content.get("flavors") if isinstance(content, dict) else None
    if not isinstance(flavors, dict) or not flavors:
        raise Unsafe("it names no flavors")
    for name, flavor in flavors.items():
        if not isinstance(flavor, dict):
            raise Unsafe(f"flavor {name!r} is not a table")
    return flavors


def _check_flavor(name: str, flavor: dict[str, Any]) -> None:
    for key, value in flavor.items():
        if "code" in key and value not in (None, {}, []):
            raise Unsafe(f"flavor {name} brings code of its own ({key}: {value})")
        if key == "loader_module" and value not in LOADERS:
            raise Unsafe(f"flavor {name} is loaded by {value!r}, which is not on the list")
        if "pickle_module" in key or "cloudpickle" in key:
            if value not in (None, "mlflow.pytorch.pickle_module"):
                raise Unsafe(f"flavor {name} is pickled ({key})")
        elif key == "serialization_format" and value not in ("skops", "pt2"):
            raise Unsafe(f"flavor {name} is saved as {value!r}")
        elif key != "skops_trusted_types":  # ignored: our own list counts
            _check_paths(value, f"flavor {name}, {key}")


def _check_paths(value: Any, where: str) -> None:
    """No text below may leave the folder."""
    if isinstance(value, dict):
        for key, item in value.items():
            _check_paths(key, where)
            _check_paths(item, where)
    elif isinstance(value, list):
        for item in value:
            _check_paths(item, where)
    elif isinstance(value, str) and (
        value.startswith(("/", "~")) or ".." in re.split(r"[/\\]", value) or "://" in value
    ):
        raise Unsafe(f"{where} points outside the folder: {value!r}")


def _check_requirements(path: Path) -> None:
    for line in path.read_text(errors="replace").splitlines():
        text = line.partition("#")[0].strip()
        if text and not _REQUIREMENT.fullmatch(text):
            raise Unsafe(f"requirements.txt has a line that is not a plain requirement: {text[:80]!r}")


def _load_yaml(path: Path) -> Any:
    """Safe YAML without anchors (which can grow without bound)."""
    import yaml

    if path.stat().st_size > MAX_TEXT:
        raise Unsafe(f"it is larger than {MAX_TEXT >> 20} MiB")
    raw = path.read_bytes()
    try:
        if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(raw, yaml.SafeLoader)):
            raise Unsafe("it uses YAML anchors")
        return yaml.safe_load(raw)
    except (yaml.YAMLError, UnicodeDecodeError, ValueError, RecursionError) as error:
        raise Unsafe(f"it is not readable YAML: {str(error).splitlines()[0]}") from error
