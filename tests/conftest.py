"""What every test starts from: a quiet environment, the data sets where there are any, one worker for processes."""

from __future__ import annotations

import os
from collections.abc import Generator
from pathlib import Path

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
for key in ("HOME", "TRACKING_URI", "DATABASE_URL", "POLICIES", "ACTOR", "FAILPOINT"):
    os.environ.pop(f"MLPLATFORM_{key}", None)

TESTS = Path(__file__).parent
SIDE_BY_SIDE = ("unit", "contracts", "checks")
"""Folders whose tests share nothing; the others start processes and stay together on one worker."""


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


@pytest.hookimpl(wrapper=True)  # before xdist reads the groups
def pytest_collection_modifyitems(
    config: pytest.Config, items: list[pytest.Item]
) -> Generator[None, object, object]:
    without_data = data_folder() is None
    asked_for_soak = "soak" in (config.option.markexpr or "")
    kept, left_out = [], []
    for item in items:
        folder = item.path.relative_to(TESTS).parts[0] if item.path.is_relative_to(TESTS) else ""
        if folder not in SIDE_BY_SIDE and item.get_closest_marker("xdist_group") is None:
            item.add_marker(pytest.mark.xdist_group("processes"))
        needs_data = without_data and item.get_closest_marker("data")
        too_long = not asked_for_soak and item.get_closest_marker("soak")
        (left_out if needs_data or too_long else kept).append(item)
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = kept
    return (yield)


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
