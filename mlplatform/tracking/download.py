"""What a run logged, copied to where it can be inspected: from a folder of this machine, or from a server."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse

from mlplatform.domain.bundle import MAX_BYTES, MAX_FILES
from mlplatform.errors import UnsafeArtifact
from mlplatform.tracking import parts
from mlplatform.tracking.client import Missing, Mlflow


def download_parts(mlflow: Mlflow, run: Any, into: Path) -> list[str]:
    """Names of the parts that are not there."""
    target = into / parts.FOLDER
    source = _local(f"{run.info.artifact_uri}/{parts.FOLDER}")
    if source is not None:
        if source.is_dir():
            _copy(source, target)
    elif mlflow.call("list_artifacts", run.info.run_id, parts.FOLDER):
        mlflow.call("download_artifacts", run.info.run_id, parts.FOLDER, str(into))
    return [name for name in parts.FILES if not _plain_file(target / name)]


def download_model(mlflow: Mlflow, model_id: str, folder: Path) -> bool:
    """Whether there was one. Links are copied as links, so that the inspection sees and refuses them."""
    try:
        location = str(mlflow.call("get_logged_model", model_id).artifact_location)
    except Missing:
        return False
    source = _local(location)
    if source is None:
        if not _demand_few(_listed(mlflow, model_id)):
            return False
        mlflow.download(f"models:/{model_id}", folder)
    elif source.is_dir():
        _copy(source, folder)
    (folder / "registered_model_meta").unlink(missing_ok=True)  # MLflow writes it when it loads the model
    return (folder / "MLmodel").exists()


# --- helpers ---


def _listed(mlflow: Mlflow, model_id: str, path: str | None = None) -> Iterator[tuple[str, int]]:
    """Names and sizes of a model's files on a server."""
    for item in mlflow.call("list_logged_model_artifacts", model_id, path):
        if item.is_dir:
            yield from _listed(mlflow, model_id, item.path)
        else:
            yield item.path, int(item.file_size or 0)


def _copy(source: Path, target: Path) -> None:
    """Links are copied as links, so that the inspection sees them; what cannot be copied is refused here."""
    _demand_few(_found(source))
    shutil.copytree(source, target, symlinks=True)


def _found(folder: Path) -> Iterator[tuple[str, int]]:
    for parent, _, names in os.walk(folder):
        for name in names:
            path = Path(parent) / name
            facts = path.lstat()
            if not (stat.S_ISREG(facts.st_mode) or stat.S_ISLNK(facts.st_mode)):
                relative = path.relative_to(folder).as_posix()
                raise UnsafeArtifact(path=relative, why="it is neither a file nor a folder")
            yield path.relative_to(folder).as_posix(), facts.st_size


def _demand_few(files: Iterable[tuple[str, int]]) -> int:
    """How many files there are; UnsafeArtifact, before any is copied, for more than a model may hold."""
    count = size = 0
    for name, size_bytes in files:
        count, size = count + 1, size + size_bytes
        if count > MAX_FILES or size > MAX_BYTES:
            why = f"with it there are more than {MAX_FILES} files or {MAX_BYTES >> 30} GiB"
            raise UnsafeArtifact(path=name, why=why)
    return count


def _local(uri: str) -> Path | None:
    """The folder behind an artifact address; None when it is on a server."""
    parsed = urlparse(uri)
    if parsed.scheme in ("", "file"):
        return Path(unquote(parsed.path) if parsed.scheme else uri)
    return None


def _plain_file(path: Path) -> bool:
    return path.is_file() and not path.is_symlink()
