"""The gate of docs/extending.md, installed as another package would, in a process of its own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "extending.md"


def test_a_gate_from_another_package_is_found_by_its_entry_point(tmp_path: Path) -> None:
    page = PAGE.read_text()
    code = re.search(r"```python\n# (\S+)\n(.*?)```", page, re.S)
    line = re.search(r'entry-points\."(\S+)"\]\n(.*?)```', page, re.S)
    assert code and line
    (tmp_path / code[1]).write_text(code[2])
    installed = tmp_path / "fewer_alarms-1.0.dist-info"
    installed.mkdir()
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: fewer-alarms\nVersion: 1.0\n")
    (installed / "entry_points.txt").write_text(f"[{line[1]}]\n{line[2].replace(chr(34), '')}")
    policy = tmp_path / "policy.toml"
    policy.write_text(
        'model = "m"\nladder = ["live"]\n[stages.live]\ngates = [{ use = "fewer_alarms", label = "UP", at_most = 2 }]\n'
    )
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "mlplatform", *words]
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)

    assert "fewer_alarms:FewerAlarmsGate" in run("plugins", "gate").stdout
    refused = run("policy", "check", str(policy))
    assert refused.returncode == 2
    assert "at_most must be above 0" in refused.stderr
    policy.write_text(policy.read_text().replace("at_most = 2", "at_most = 0.5"))
    assert run("policy", "check", str(policy)).returncode == 0
