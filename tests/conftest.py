"""What every test starts from: a quiet environment, the data sets where there are any, who runs beside whom."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import pytest

os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # every child process would pay seconds for its imports
os.environ.update(
    MLFLOW_DISABLE_TELEMETRY="true",
    DO_NOT_TRACK="1",
    MLFLOW_SKIP_PIP_REQUIREMENTS_CHECK="true",
    MPLBACKEND="agg",
)
for name in ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI", "MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT_ID"):
    os.environ.pop(name, None)
OURS = (
    "HOME",
    "TRACKING_URI",
    "DATABASE_URL",
    "POLICIES",
    "ACTOR",
    "FAILPOINT",
    "TOKEN",
    "TOKEN_FILE",
    "MLFLOW_PATIENCE",
)
for key in OURS:
    os.environ.pop(f"MLPLATFORM_{key}", None)

pytest_plugins = ["tests.databases", "tests.demo_story", "tests.prepared"]

TESTS = Path(__file__).parent
SIDE_BY_SIDE = ("unit", "contracts", "checks")
"""Folders whose tests share nothing; the others start processes and make two heaps of about equal length."""
ALONE = re.compile(r"/test_(serv|swap|many_models|rollouts|capture|bench)\w*\.py$")
"""Of the acceptance tests, those that share nothing either."""
LONG_STORIES = ("test_electricity.py", "test_gates.py")
"""And those that go with the other heap."""


def data_folder() -> Path | None:
    """`MLPLATFORM_DATA`, or None where it is not set; a folder that is not there is a mistake."""
    text = os.environ.get("MLPLATFORM_DATA", "").strip()
    if not text:
        return None
    if not Path(text).is_dir():
        raise pytest.UsageError(f"MLPLATFORM_DATA={text} is not a folder; correct it, or unset it")
    return Path(text).resolve()


def pytest_configure(config: pytest.Config) -> None:
    data_folder()


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    without_data = data_folder() is None
    asked_for = {mark for mark in ("soak", "docker") if mark in (config.option.markexpr or "")}
    kept, left_out = [], []
    for item in items:
        needs_data = without_data and item.get_closest_marker("data")
        not_asked_for = any(item.get_closest_marker(m) for m in ("soak", "docker") if m not in asked_for)
        (left_out if needs_data or not_asked_for else kept).append(item)
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = kept


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Tests that share nothing go out file by file, all others in two heaps, each to one worker.

    Not `--dist loadgroup`: with pytest 9.2 it silently stops grouping (pytest-xdist 3.8).
    """
    from xdist.scheduler import LoadScopeScheduling

    class ByFolder(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.partition("::")[0]
            folder = file.split("/")[1]
            if folder in SIDE_BY_SIDE or ALONE.search(file):
                return file
            return "stories" if folder == "acceptance" and not file.endswith(LONG_STORIES) else "processes"

    return ByFolder(config, log)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if data_folder() is None:
        terminalreporter.write_line(
            "MLPLATFORM_DATA is not set: tests that read data sets were left out (see CONTRIBUTING.md)",
            yellow=True,
        )


@pytest.fixture(scope="session")
def data() -> Path:
    """The folder with the data sets; only for tests marked `data`."""
    folder = data_folder()
    assert folder is not None, "mark the test with @pytest.mark.data"
    return folder
