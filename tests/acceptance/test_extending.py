"""The gate of docs/extending.md, installed as another package would, in processes of their own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.small_project import POLICY, Place

PAGE = Path(__file__).parents[2] / "docs" / "extending.md"


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A folder on the path that holds the page's gate, with its entry point."""
    page = PAGE.read_text()
    code = re.search(r"```python\n# (\S+)\n(.*?)```", page, re.S)
    line = re.search(r'entry-points\."(\S+)"\]\n(.*?)```', page, re.S)
    assert code and line
    folder = tmp_path / "site"
    installed = folder / "fewer_alarms-1.0.dist-info"
    installed.mkdir(parents=True)
    (folder / code[1]).write_text(code[2])
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: fewer-alarms\nVersion: 1.0\n")
    (installed / "entry_points.txt").write_text(f"[{line[1]}]\n{line[2].replace(chr(34), '')}")
    return folder


def run(
    package: Path, *words: str, folder: Path | None = None, **more: str
) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "mlplatform", *words]
    root = Path(__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": f"{package}{os.pathsep}{root}", **more}
    return subprocess.run(
        command, env=environment, cwd=folder, capture_output=True, text=True, timeout=120, check=False
    )


def test_a_gate_from_another_package_is_found_by_its_entry_point(package: Path, tmp_path: Path) -> None:
    policy = tmp_path / "policy.toml"
    policy.write_text(
        'model = "m"\nladder = ["live"]\n[stages.live]\ngates = [{ use = "fewer_alarms", label = "UP", at_most = 2 }]\n'
    )
    assert "fewer_alarms:FewerAlarmsGate" in run(package, "plugins", "gate").stdout
    refused = run(package, "policy", "check", str(policy))
    assert refused.returncode == 2
    assert "at_most must be above 0" in refused.stderr
    policy.write_text(policy.read_text().replace("at_most = 2", "at_most = 0.5"))
    assert run(package, "policy", "check", str(policy)).returncode == 0


def test_a_gate_from_another_package_decides_a_real_promotion(package: Path, sqlite_place: Place) -> None:
    ours = '{ use = "metric", name = "accuracy", at_least = 0.6, min_n = 30 }'
    assert ours in POLICY

    def promoted(at_most: float) -> subprocess.CompletedProcess[str]:
        theirs = f'{{ use = "fewer_alarms", label = "1", at_most = {at_most} }}'
        (sqlite_place.folder / "policy.toml").write_text(POLICY.replace(ours, theirs))
        words = ("promote", "churn@4", "staging", "--reason", "quieter")
        return run(package, *words, folder=sqlite_place.folder, **sqlite_place.environment)

    refused = promoted(0.01)
    assert refused.returncode == 3, refused.stderr
    assert re.search(r"FAIL +fewer_alarms: \d+\.\d% of 80 rows are called 1, 1\.0% allowed", refused.stdout)
    done = promoted(0.99)
    assert done.returncode == 0, done.stderr
    assert re.search(r"PASS +fewer_alarms: ", done.stdout) and "CANDIDATE -> staging" in done.stdout
    (sqlite_place.folder / "policy.toml").write_text(POLICY)  # the package is on no path of this process
    with sqlite_place.opened() as platform:
        assert platform.world.ledger.standings("churn").holder("staging") == 4
        entries = [e.draft for e in platform.history("churn") if e.draft.version == 4]
    told = [(f["gate"], f["verdict"]) for e in entries[-2:] for f in e.data["findings"]]
    assert told == [("fewer_alarms", "FAIL"), ("fewer_alarms", "PASS")]
