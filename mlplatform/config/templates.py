"""The project that `mlplatform init` writes: it trains, passes its gates and goes live as it is."""

from __future__ import annotations

import re
from importlib.resources import files
from pathlib import Path

from mlplatform.domain.ladder import Ladder
from mlplatform.domain.policy import Policy
from mlplatform.errors import UsageError

FILES = {
    "mlplatform.toml": "mlplatform.toml.template",
    "policy.toml": "policy.toml.template",
    "MLproject": "MLproject.template",
    "train.py": "train.py.template",
    ".gitignore": "gitignore.template",
}


def write_project(folder: Path, model: str) -> list[Path]:
    """Write the files of a new project; their paths. Raises UsageError, with nothing written, when one is there."""
    _check_name(model)
    there = [name for name in FILES if (folder / name).exists()]
    if there:
        raise UsageError(
            "Choose an empty folder: mlplatform init FOLDER.", what=f"{folder} already has {', '.join(there)}"
        )
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in project_files(model).items():
        (folder / name).write_text(text, encoding="utf-8")
    return [folder / name for name in FILES]


def project_files(model: str) -> dict[str, str]:
    """The files' texts, by name."""
    folder = files("mlplatform.config") / "template"
    endpoint = re.sub(r"[^A-Za-z0-9_\-]", "-", model)[:63]
    texts = {name: (folder / source).read_text(encoding="utf-8") for name, source in FILES.items()}
    return {
        name: text.replace("{{model}}", model).replace("{{endpoint}}", endpoint)
        for name, text in texts.items()
    }


def _check_name(model: str) -> None:
    try:
        Policy(model, Ladder(("production",)))
    except ValueError as error:
        raise UsageError("Choose another with --model.", what=str(error)) from None
