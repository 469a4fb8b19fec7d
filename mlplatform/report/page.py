"""monitor_report: the windows of a model as one HTML file that needs nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import numpy as np

from mlplatform.domain.watch import Decision, Window
from mlplatform.report import facts, plots
from mlplatform.report.html import fill

NEWEST = 150
"""Windows shown: more would not fit a screen's width."""


def monitor_report(
    windows: Sequence[tuple[Window, Decision]], title: str, made_at: datetime | None = None
) -> str:
    """Quality over time, decisions, drift by column and the windows themselves, oldest first.

    Plots are inside the file, every text from outside is escaped, and no other file or host is asked for.
    """
    shown = list(windows)[-NEWEST:]
    return fill(
        "monitor.html",
        title=title,
        made_at=made_at,
        earlier=len(windows) - len(shown),
        windows=shown,
        **(_content(shown) if shown else {}),
    )


def _content(shown: Sequence[tuple[Window, Decision]]) -> dict[str, Any]:
    qualities = facts.qualities(shown)
    drift = facts.drift(shown)
    now = facts.columns_now(shown)
    return {
        "newest": shown[-1][0],
        "decision": shown[-1][1],
        "tiles": _tiles(shown, qualities),
        "qualities": [(q, plots.quality_plot(shown, q), _said(q, shown)) for q in qualities],
        "decisions": None if qualities else plots.decisions_plot(shown),
        "drift": drift,
        "drift_plot": plots.drift_plot(shown, drift) if drift else None,
        "compared": now[0] if now else None,
        "columns": now[1] if now else [],
    }


def _tiles(
    shown: Sequence[tuple[Window, Decision]], qualities: Sequence[facts.Quality]
) -> list[tuple[str, str, str]]:
    """Name, figure and a note."""
    rows = sum(window.rows for window, _ in shown)
    labelled = sum(window.labelled for window, _ in shown)
    alarmed = sum(1 for window, _ in shown if window.alarms)
    tiles = [
        ("windows", f"{len(shown)}", f"{alarmed} with an alarm"),
        ("rows answered", f"{rows:,}", f"{labelled / rows:.0%} labelled" if rows else "none labelled"),
    ]
    for quality in qualities:
        known = np.flatnonzero(np.isfinite(quality.value))
        if len(known):
            last = known[-1]
            bad = int(quality.alarm.sum())
            note = f"reference {quality.reference[last]:.3f}; {bad} of {len(known)} windows clearly worse"
            tiles.append((f"newest {_words(quality.measure)}", f"{quality.value[last]:.3f}", note))
    return tiles


def _said(quality: facts.Quality, shown: Sequence[tuple[Window, Decision]]) -> str:
    """The plot in a sentence, for those who do not see it."""
    known = np.flatnonzero(np.isfinite(quality.value))
    if not len(known):
        return f"{_words(quality.measure)} is not known for any window: no labels yet."
    best, worst = quality.value[known].max(), quality.value[known].min()
    alarms = int(quality.alarm.sum())
    return (
        f"{_words(quality.measure).capitalize()} over {len(shown)} windows, known for {len(known)}:"
        f" between {worst:.3f} and {best:.3f}, newest {quality.value[known[-1]]:.3f}; {alarms} alarms."
    )


def _words(name: str) -> str:
    return name.replace("_", " ")
