"""What was drawn is kept beside a run in MLflow, once a state of its facts, and found by addresses of MLflow's UI.

A tag of the run names the digest of those facts and the files, so that drawing and uploading happen only when something
changed. MLflow's Markdown shows images of the addresses given here: tried on a real server by tests/browser.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

from mlplatform.errors import UnknownName
from mlplatform.ports.store import Stage
from mlplatform.tracking.client import Missing, Mlflow
from mlplatform.tracking.parts import DRAWN_TAG, FOLDER


def keep(
    mlflow: Mlflow, stage: Stage, run_id: str, folder: str, digest: str, draw: Callable[[], Mapping[str, str]]
) -> dict[str, str]:
    """See the port Runs."""
    try:
        run = mlflow.call("get_run", run_id)
        known = _known(run.data.tags)
        if known.get(folder, {}).get("digest") != digest:
            files = draw()
            _upload(mlflow, stage, run_id, f"{FOLDER}/{folder}", files)
            # Last: a crash before it means that all of this is done again.
            known[folder] = {"digest": digest, "files": sorted(files)}
            mlflow.call("set_tag", run_id, f"{DRAWN_TAG}{folder}", json.dumps(known[folder]))
    except Missing as error:
        raise UnknownName("run", run_id) from error
    return {
        name: _address(run, f"{FOLDER}/{where}/{name}", entry["digest"])
        for where, entry in known.items()
        for name in entry["files"]
    }


def _known(tags: Mapping[str, str]) -> dict[str, Any]:
    """What was kept so far, by folder. A tag that somebody else wrote counts as none."""
    found = {}
    for tag, text in tags.items():
        if tag.startswith(DRAWN_TAG):
            try:
                entry = json.loads(text)
                files = [name for name in entry["files"] if isinstance(name, str) and "/" not in name]
                found[tag.removeprefix(DRAWN_TAG)] = {"digest": str(entry["digest"]), "files": files}
            except (ValueError, KeyError, TypeError):
                continue
    return found


def _upload(mlflow: Mlflow, stage: Stage, run_id: str, folder: str, files: Mapping[str, str]) -> None:
    with stage() as place:
        for name, text in files.items():
            (Path(place) / name).write_text(text, encoding="utf-8")
        mlflow.call("log_artifacts", run_id, str(place), folder)


def _address(run: Any, path: str, digest: str) -> str:
    """Within MLflow's UI, wherever it is served: pages in its viewer, images as they are, past any cache."""
    if path.endswith(".html"):
        return f"#/experiments/{run.info.experiment_id}/runs/{run.info.run_id}/artifacts/{quote(path)}"
    return f"get-artifact?path={quote(path)}&run_uuid={run.info.run_id}&of={quote(digest[:12])}"
