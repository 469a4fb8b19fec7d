"""Real time: two and a half years of a real electricity market, replayed window by window through the real verbs.

What happens when is told beside the data: drift of the inputs without loss at first, then a year of another concept
(windows 14-25), then the old concept returns (26-30).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlplatform.control import Loop, Platform
from mlplatform.data.tables import ParquetTables
from tests.acceptance.stories import Stream, first_version_live, new_project, opened

pytestmark = [pytest.mark.data, pytest.mark.timeout(1500)]

MODEL = "electricity"
BEGIN = datetime(1996, 5, 7, tzinfo=UTC)
ROWS = 28 * 48
WINDOWS = range(7, 34)
DRIFT = range(14, 26)
NEVER_RETRAINED = 0.735


@dataclass
class Replay:
    hits: list[Any] = field(default_factory=list)
    static_hits: list[Any] = field(default_factory=list)
    retrained_in: list[int] = field(default_factory=list)
    gains: list[tuple[int, str, float]] = field(default_factory=list)
    """Window, challenger that went live, its accuracy minus the incumbent's on the newest labelled rows."""


def test_the_loop_pays_on_two_years_of_real_drift(tmp_path: Path, data: Path) -> None:
    table = ParquetTables().read(data / "elec2" / "elec2.parquet")
    truth = table.pop("class").astype(str).astype(object)
    with opened(new_project(tmp_path / MODEL, MODEL)) as platform:
        first = first_version_live(platform, MODEL, compress=False)
        replay = _replay(platform, first, table, truth)
    live, static = np.concatenate(replay.hits), np.concatenate(replay.static_hits)
    print(f"\nlive {live.mean():.4f}, never retrained {static.mean():.4f}, {len(live)} rows")
    assert set(replay.retrained_in) & set(DRIFT), replay.retrained_in
    assert replay.gains, "no challenger ever went live"
    assert all(gain >= 0 for _, _, gain in replay.gains), replay.gains
    assert live.mean() >= static.mean()
    assert live.mean() >= NEVER_RETRAINED


def _replay(platform: Platform, first: str, table: dict[str, Any], truth: Any) -> Replay:
    replay, stream = Replay(), Stream(platform, MODEL)
    inputs = platform.world.bundles.manifest(platform.version(first).digest).input_names
    never_retrained = platform.ask(first, {name: table[name] for name in inputs})["prediction"]
    for number in WINDOWS:
        rows = slice(number * ROWS, min((number + 1) * ROWS, len(truth)))
        columns = {name: values[rows] for name, values in table.items() if name in (*inputs, "timestamp")}
        incumbent = platform.version(f"{MODEL}@production").ref
        answers = stream.send(columns)
        replay.hits.append(answers["prediction"] == truth[rows])
        replay.static_hits.append(never_retrained[rows] == truth[rows])
        end = BEGIN + timedelta(minutes=30) * rows.stop
        loop = stream.label_and_watch(answers, truth[rows], end)
        _note(replay, platform, loop, number, incumbent, {n: columns[n] for n in inputs}, truth[rows])
    return replay


def _note(
    replay: Replay,
    platform: Platform,
    loop: Loop,
    number: int,
    incumbent: str,
    columns: dict[str, Any],
    truth: Any,
) -> None:
    live, static = replay.hits[-1].mean(), replay.static_hits[-1].mean()
    line = f"window {number}  {incumbent}  live {live:.3f}  static {static:.3f}"
    if loop.retrained and loop.retrained.run_id:
        replay.retrained_in.append(number)
        line += f"  retrained: {loop.retrained.record.outcome[:60]}"
    if loop.promoted and loop.promoted.status == "done" and loop.promoted.stage == "production":
        newest = {name: values[-14 * 48 :] for name, values in columns.items()}
        challenger = loop.promoted.version.ref
        ours, theirs = (platform.ask(ref, newest)["prediction"] for ref in (challenger, incumbent))
        known = truth[-14 * 48 :]
        replay.gains.append((number, challenger, float((ours == known).mean() - (theirs == known).mean())))
        line += f"  {challenger} went live, {replay.gains[-1][2]:+.3f} on the newest labelled rows"
    if loop.rolled_back:
        line += f"  rolled back to {MODEL}@{loop.rolled_back.draft.version}"
    print(line, flush=True)
