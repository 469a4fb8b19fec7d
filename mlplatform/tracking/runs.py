"""Training runs: started as MLflow Projects, read back as candidates, extended by what compression made."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal
from uuid import uuid4

from mlplatform.domain.bundle import Manifest
from mlplatform.domain.run_id import SHOWN, the_one
from mlplatform.errors import NotACandidate, TrainingFailed, UnknownName
from mlplatform.ports.store import Stage
from mlplatform.ports.tracking import Candidate, RunDetails
from mlplatform.tracking import drawn, flavors, parts
from mlplatform.tracking.client import Missing, Mlflow, one_line
from mlplatform.tracking.download import download_model, download_parts

TAIL_LINES = 5
MOST_ALIKE = 20
"""Runs that are named where the beginning of an id is not enough."""
WITHHELD = ("PYTHONDONTWRITEBYTECODE", "MLPLATFORM_TOKEN", "MLPLATFORM_TOKEN_FILE")
"""Of the environment: a training must not act under the name of who started it."""


class MlflowRuns:
    """Port Runs. `stage` makes the folders that are of use only while a method runs."""

    def __init__(self, mlflow: Mlflow, stage: Stage = TemporaryDirectory) -> None:
        self._mlflow, self._stage = mlflow, stage

    def train(self, project: Path, parameters: Mapping[str, str], model: str, log: Path) -> str:
        """Run the project's `main` as a process of its own, in the experiment named after the model; its run id.

        Its output goes to `log`. Raises TrainingFailed with the last lines.
        """
        log.parent.mkdir(parents=True, exist_ok=True)
        with self._stage() as folder:
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

    def named(self, text: str) -> str:
        """Asks the store only for an id that is long enough to name one."""
        found = self._beginning(text) if len(text) >= SHOWN else []
        return the_one(text, found, self._hint)

    def candidate(self, run_id: str, into: Path) -> Candidate:
        """Download what the SDK logged. Raises NotACandidate naming every missing part, UnknownName for no such run."""
        run = self._run(run_id)
        into.mkdir(parents=True, exist_ok=True)
        missing = download_parts(self._mlflow, run, into)
        model_id = run.data.tags.get(parts.MODEL_TAG) or _newest_output(run)
        folder = into / "model"
        if not (model_id and download_model(self._mlflow, model_id, folder)):
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
            params=description.params,
        )

    def log_derived(self, parent_run_id: str, bundle: Path, manifest: Manifest, technique: str) -> str:
        """A nested run that holds the child's model; ONNX in MLflow's own format, others as they are.

        Repeating it for equal bytes gives the run that is there.
        """
        parent = self._run(parent_run_id)
        experiment = parent.info.experiment_id
        if known := self._derived(experiment, parent_run_id, manifest.digest):
            return known
        attempt = uuid4().hex
        tags = {
            parts.ATTEMPT_TAG: attempt,
            "mlflow.parentRunId": parent_run_id,
            "mlplatform.technique": technique,
            "mlplatform.digest": manifest.digest,
            "mlflow.user": str(parent.data.tags.get("mlflow.user", "")),
        }
        made = self._mlflow.call(
            "create_run",
            experiment,
            tags=tags,
            run_name=technique,
            recheck=lambda: attempted(self._mlflow, "search_runs", experiment, attempt),
        )
        run_id = str(made.info.run_id)
        with self._stage() as folder:
            flavors.save_derived(Path(folder) / "model", bundle / manifest.model_path, manifest)
            log_model(self._mlflow, run_id, experiment, Path(folder) / "model")
        self._mlflow.call("set_terminated", run_id, end_time=int(time.time() * 1000))
        return run_id

    def keep(
        self, run_id: str, folder: str, digest: str, draw: Callable[[], Mapping[str, str]]
    ) -> dict[str, str]:
        """Files beside the run, drawn when those of this digest are not there yet; addresses of all that was kept."""
        return drawn.keep(self._mlflow, self._stage, run_id, folder, digest, draw)

    def details(self, run_id: str) -> RunDetails:
        """What the run says of itself, in the order of the names."""
        run = self._run(run_id)
        used = run.inputs.dataset_inputs if run.inputs else []
        return RunDetails(
            dict(sorted(run.data.params.items())),
            dict(sorted(run.data.metrics.items())),
            dict(sorted((_dataset(item), str(item.dataset.digest)) for item in used)),
            str(run.data.tags.get("mlflow.source.git.commit", "")),
        )

    def lifecycle(self, run_id: str) -> Literal["active", "deleted", "gone"]:
        """`deleted` can be restored, `gone` cannot."""
        try:
            run = self._mlflow.call("get_run", run_id)
        except Missing:
            return "gone"
        return "deleted" if run.info.lifecycle_stage == "deleted" else "active"

    def restore(self, run_id: str) -> None:
        """Take a run back that was deleted in MLflow."""
        active = lambda: True if self.lifecycle(run_id) == "active" else None  # noqa: E731
        self._mlflow.call("restore_run", run_id, recheck=active)

    # --- training ---

    def _launch(self, order: Path, log: Path) -> int:
        """The launcher's exit code."""
        environment = {k: v for k, v in os.environ.items() if k not in WITHHELD}
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
            raise UnknownName("run", run_id, hint=self._hint) from error

    @property
    def _hint(self) -> str:
        return (
            f"Is it in the store {self._mlflow.uri}? Write its id, or at least the first {SHOWN} characters."
        )

    def _beginning(self, text: str) -> list[str]:
        """Ids that begin so, of all experiments, deleted ones too."""
        everything = 3  # ViewType.ALL, without the import of MLflow
        experiments = [e.experiment_id for e in self._mlflow.call("search_experiments", everything)]
        found = self._mlflow.call(
            "search_runs", experiments, f"attributes.run_id LIKE '{text}%'", everything, MOST_ALIKE
        )
        return [str(run.info.run_id) for run in found]

    def _derived(self, experiment: str, parent_run_id: str, digest: str) -> str | None:
        wanted = f"tags.`mlflow.parentRunId`='{parent_run_id}' and tags.`mlplatform.digest`='{digest}'"
        found = self._mlflow.call("search_runs", [experiment], f"{wanted} and attributes.status='FINISHED'")
        return str(found[0].info.run_id) if found else None


def attempted(mlflow: Mlflow, search: str, experiment: str, attempt: str) -> Any:
    """The run or model that a call made whose reply was lost; None when it made none."""
    found = mlflow.call(search, [experiment], f"tags.`{parts.ATTEMPT_TAG}`='{attempt}'")
    return found[0] if found else None


def log_model(
    mlflow: Mlflow, run_id: str, experiment: str, folder: Path, params: Mapping[str, str] | None = None
) -> str:
    """Upload a saved model folder as the run's LoggedModel; its id. The run's tag names it last, when all is there."""
    from mlflow.entities import LoggedModelOutput

    attempt = uuid4().hex
    made = mlflow.call(
        "create_logged_model",
        experiment,
        name="model",
        source_run_id=run_id,
        params=dict(params or {}),
        tags={parts.ATTEMPT_TAG: attempt},
        recheck=lambda: attempted(mlflow, "search_logged_models", experiment, attempt),
    )
    model_id = str(made.model_id)
    flavors.stamp(folder, model_id, run_id)
    mlflow.call("log_model_artifacts", model_id, str(folder))
    mlflow.call("finalize_logged_model", model_id, "READY")
    mlflow.call(
        "log_outputs",
        run_id,
        [LoggedModelOutput(model_id, step=0)],
        recheck=lambda: _newest_output(mlflow.call("get_run", run_id)) == model_id or None,
    )
    mlflow.call("set_tag", run_id, parts.MODEL_TAG, model_id)
    return model_id


def _dataset(item: Any) -> str:
    """`adult (training)`: MLflow keeps what a dataset was used for as a tag of its use."""
    context = next((tag.value for tag in item.tags if tag.key == "mlflow.data.context"), "")
    return f"{item.dataset.name} ({context})" if context else str(item.dataset.name)


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


def _last_lines(log: Path) -> str:
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    wanted = [line for line in lines if not line.startswith("=== ") and "mlflow.projects" not in line]
    return " / ".join(wanted[-TAIL_LINES:]) or "it wrote nothing"
