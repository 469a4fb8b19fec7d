"""`python -m mlplatform.tracking.launch ORDER`: run one MLflow Project, so that its output is this process's own."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

from mlplatform.errors import MlplatformError
from mlplatform.tracking.client import Mlflow, one_line, prepare


def main(order: Path) -> int:
    """Run what the order says; the run's id goes to the file that the order names."""
    prepare()
    import mlflow.projects
    from mlflow.exceptions import MlflowException

    given = json.loads(order.read_text())
    root = Path(given["artifact_root"]) if given["artifact_root"] else None
    try:
        experiment = Mlflow(os.environ["MLFLOW_TRACKING_URI"], root).experiment(given["experiment"])
        run: Any = mlflow.projects.run
        submitted = run(
            given["project"],
            entry_point="main",
            parameters=given["parameters"],
            experiment_id=experiment,
            backend="local",
            env_manager="local",
            storage_dir=str(
                order.parent
            ),  # MLflow leaves an empty folder there; ours is removed with the order
        )
    except (MlflowException, MlplatformError) as error:
        print(one_line(error), file=sys.stderr)
        return 1
    Path(given["answer"]).write_text(submitted.run_id)
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
