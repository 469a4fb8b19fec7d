"""Training runs: started as MLflow Projects, read back as candidates, extended by what compression made."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse

from mlplatform.domain.bundle import Manifest
from mlplatform.errors import NotACandidate, TrainingFailed, UnknownName
from mlplatform.ports.tracking import Candidate, RunDetails
from mlplatform.tracking import flavors, parts
from mlplatform.tracking.client import Missing, Mlflow, one_line

TAIL_LINES = 5


class MlflowRuns:
    """Port Runs."""

    def __init__(self, mlflow: Mlflow) -> None:
        self._mlflow = mlflow

    def train(self, project: Path, parameters: Mapping[str, str], model: str, log: Path) -> str:
        """Run the project's `main` as a process of its own, in the experiment named after the model; its run id.

        Its output goes to `log`. Raises TrainingFailed with the last lines.
        """
        log.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="mlplatform-train-") as folder:
            order, answer = Path(folder) / "order.json", Path(folder) / "run_id"
            given = {
                "project": str(project),
                "experiment": model,
                "artifact_root": str(self._mlflow.artifact_root or ""),
                "parameters": {k: v for k, v in parameters.items() if v != ""},
                "answer": str(answer),
            }
            order.write_text(json.dumps(given))
            ending = self._launch(order, log)
            if ending == 0 and answer.exists():
                return answer.read_text()
        raise TrainingFailed(
            project=str(project), ending=f"exit code {ending}", cause=_last_lines(log), log=str(log)
        )

    def candidate(self, run_id: str, into: Path) -> Candidate:
        """Download what the SDK logged. Raises NotACandidate naming every missing part, UnknownName for no such run."""
        run = self._run(run_id)
        into.mkdir(parents=True, exist_ok=True)
        missing = self._download_parts(run, into)
        model_id = run.data.tags.get(parts.MODEL_TAG) or _newest_output(run)
        folder = into / "model"
        if not (model_id and self._download_model(model_id, folder)):
            missing.append("model")
        if missing:
            raise NotACandidate(run_id=run_id, missing=", ".join(missing))
        files = into / parts.FOLDER
        description = _describe(run_id, files / parts.DESCRIPTION)
        return Candidate(
            run_id=run_id,
            model_folder=folder,
            runtime=description.runtime,
            inputs=description.inputs,
            task=description.task,
            sample=files / parts.SAMPLE,
            holdout=files / parts.HOLDOUT,
            reference=files / parts.REFERENCE,
            trained_on=files / parts.TRAINED_ON,
            requirements=description.requirements,
            author=f"os:{run.data.tags.get('mlflow.user') or run.info.user_id or 'unknown'}",
            metrics=dict(run.data.metrics),
            parameters=dict(run.data.params),
            options=description.options,
        )

    def log_derived(self, parent_run_id: str, bundle: Path, manifest: Manifest, technique: str) -> str:
        """A nested run that holds the child's model; ONNX in MLflow's own format, others as they are.

        Repeating it for equal bytes gives the run that is there.
        """
        parent = self._run(parent_run_id)
        experiment = parent.info.experiment_id
        if known := self._derived(experiment, parent_run_id, manifest.digest):
            return known
        tags = {
            "mlflow.parentRunId": parent_run_id,
            "mlplatform.technique": technique,
            "mlplatform.digest": manifest.digest,
            "mlflow.user": str(parent.data.tags.get("mlflow.user", "")),
        }
        run_id = str(self._mlflow.call("create_run", experiment, tags=tags, run_name=technique).info.run_id)
        with tempfile.TemporaryDirectory(prefix="mlplatform-derived-") as folder:
            flavors.save_derived(Path(folder) / "model", bundle / manifest.model_path, manifest)
            log_model(self._mlflow, run_id, experiment, Path(folder) / "model")
        self._mlflow.call("set_terminated", run_id)
        return run_id

    def log_artifact(self, run_id: str, path: Path, folder: str) -> None:
        """Put a file or a folder's files beside the run."""
        try:
            if path.is_dir():
                self._mlflow.call("log_artifacts", run_id, str(path), folder)
            else:
                self._mlflow.call("log_artifact", run_id, str(path), folder)
        except Missing as error:
            raise UnknownName("run", run_id) from error

    def details(self, run_id: str) -> RunDetails:
        run = self._run(run_id)
        return RunDetails(dict(run.data.params), dict(run.data.metrics))

    # --- training ---

    def _launch(self, order: Path, log: Path) -> int:
        """The launcher's exit code."""
        environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
        environment |= {"MLFLOW_TRACKING_URI": self._mlflow.uri, "PYTHONUNBUFFERED": "1"}
        environment |= {
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{environment.get('PATH', os.defpath)}"
        }
        command = [sys.executable, "-m", "mlplatform.tracking.launch", str(order)]
        # MLflow is needed here right after the training: its import runs beside it, on another core.
        threading.Thread(target=import_module, args=("mlflow",), daemon=True).start()
        with log.open("wb") as output:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=environment,
                start_new_session=True,
            )
            try:
                return process.wait()
            except BaseException:
                os.killpg(process.pid, signal.SIGTERM)  # the script's own process too, not only the launcher
                process.wait()
                raise

    # --- candidates ---

    def _run(self, run_id: str) -> Any:
        try:
            return self._mlflow.call("get_run", run_id)
        except Missing as error:
            raise UnknownName("run", run_id, hint=f"Is it in the store {self._mlflow.uri}?") from error

    def _download_parts(self, run: Any, into: Path) -> list[str]:
        """Names of the parts that are not there."""
        target = into / parts.FOLDER
        source = _local(f"{run.info.artifact_uri}/{parts.FOLDER}")
        if source is not None:
            if source.is_dir():
                shutil.copytree(source, target, symlinks=True)
        elif self._mlflow.call("list_artifacts", run.info.run_id, parts.FOLDER):
            self._mlflow.call("download_artifacts", run.info.run_id, parts.FOLDER, str(into))
        return [name for name in parts.FILES if not _plain_file(target / name)]

    def _download_model(self, model_id: str, folder: Path) -> bool:
        """Whether there was one. Links are copied as links, so that the inspection sees and refuses them."""
        try:
            location = str(self._mlflow.call("get_logged_model", model_id).artifact_location)
        except Missing:
            return False
        source = _local(location)
        if source is None:
            self._mlflow.download(f"models:/{model_id}", folder)
        elif source.is_dir():
            shutil.copytree(source, folder, symlinks=True)
        (folder / "registered_model_meta").unlink(missing_ok=True)  # MLflow writes it when it loads the model
        return (folder / "MLmodel").exists()

    def _derived(self, experiment: str, parent_run_id: str, digest: str) -> str | None:
        wanted = f"tags.`mlflow.parentRunId`='{parent_run_id}' and tags.`mlplatform.digest`='{digest}'"
        found = self._mlflow.call("search_runs", [experiment], f"{wanted} and attributes.status='FINISHED'")
        return str(found[0].info.run_id) if found else None


def log_model(
    mlflow: Mlflow, run_id: str, experiment: str, folder: Path, params: Mapping[str, str] | None = None
) -> str:
    """Upload a saved model folder as the run's LoggedModel; its id. The run's tag names it last, when all is there."""
    from mlflow.entities import LoggedModelOutput

    made = mlflow.call(
        "create_logged_model", experiment, name="model", source_run_id=run_id, params=dict(params or {})
    )
    model_id = str(made.model_id)
    flavors.stamp(folder, model_id, run_id)
    mlflow.call("log_model_artifacts", model_id, str(folder))
    mlflow.call("finalize_logged_model", model_id, "READY")
    mlflow.call("log_outputs", run_id, [LoggedModelOutput(model_id, step=0)])
    mlflow.call("set_tag", run_id, parts.MODEL_TAG, model_id)
    return model_id


def _newest_output(run: Any) -> str | None:
    outputs = run.outputs.model_outputs if run.outputs else []
    return str(outputs[-1].model_id) if outputs else None


def _describe(run_id: str, path: Path) -> parts.Description:
    try:
        return parts.Description.decode(path.read_bytes())
    except ValueError as error:
        raise NotACandidate(
            run_id=run_id, missing=f"a readable {parts.DESCRIPTION} ({one_line(error)})"
        ) from error


def _local(uri: str) -> Path | None:
    """The folder behind an artifact address; None when it is on a server."""
    parsed = urlparse(uri)
    if parsed.scheme in ("", "file"):
        return Path(unquote(parsed.path) if parsed.scheme else uri)
    return None


def _plain_file(path: Path) -> bool:
    return path.is_file() and not path.is_symlink()


def _last_lines(log: Path) -> str:
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    wanted = [line for line in lines if not line.startswith("=== ") and "mlflow.projects" not in line]
    return " / ".join(wanted[-TAIL_LINES:]) or "it wrote nothing"
