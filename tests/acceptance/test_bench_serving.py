"""`make bench-serving` in its short form: every server answers, and the tables hold a figure for each."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from tests.bench.bench_serving import BINARY_64, FLOOR, JSON_64, MLFLOW, NAIVE, NO_CAPTURE, OURS, TUNED

TABLES = {MLFLOW: 1, NAIVE: 1, NO_CAPTURE: 1, FLOOR: 1, TUNED: 2, OURS: 2, JSON_64: 2, BINARY_64: 2}
"""In how many tables each has a row."""


@pytest.mark.timeout(600)
def test_the_short_run_measures_every_server_and_all_of_them_answer() -> None:
    command = [sys.executable, "-m", "tests.bench.bench_serving", "--quick"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    said = done.stdout
    for name, tables in TABLES.items():
        rows = re.findall(rf"^\| {re.escape(name)} \| ([\d,]+) \|", said, re.MULTILINE)
        assert len(rows) == tables, (name, said)
        assert all(int(row.replace(",", "")) > 0 for row in rows)
    assert "failed)" not in said
    assert re.search(r"against mlflow models serve: [\d.]+x", said)
    assert "rows that capture dropped: 0" in said
