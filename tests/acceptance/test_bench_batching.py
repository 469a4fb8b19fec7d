"""`make bench-batching`, short, for one model: a figure for each cell, and one side alone answers together."""

from __future__ import annotations

import re
import subprocess
import sys

CONNECTIONS = (1, 64)


def test_the_short_run_compares_a_server_that_batches_with_one_that_does_not() -> None:
    command = [sys.executable, "-m", "tests.bench.bench_batching", "--only", "forest", "--rounds", "1"]
    command += ["--seconds", "1", "--connections", *map(str, CONNECTIONS)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    rows = re.findall(r"^\| forest.*? \| (\d+) \| ([\d,]+) \|.* ([\d.]+) \|$", done.stdout, re.MULTILINE)
    assert [int(connections) for connections, _, _ in rows] == list(CONNECTIONS), done.stdout
    assert all(int(per_second.replace(",", "")) > 0 for _, per_second, _ in rows)
    assert "failed)" not in done.stdout
    assert float(rows[0][2]) == 1.0 < float(rows[-1][2])
