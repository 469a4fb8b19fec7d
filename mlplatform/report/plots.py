"""Plots as SVG. Colours are told apart by people who do not see red and green; no meaning hangs on colour alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mlplatform.domain.watch import Action
from mlplatform.report.drawing import (
    ALARM,
    ESTIMATED,
    GRID,
    HEAT,
    INK,
    MUTED,
    REALISED,
    STYLE,
    data_uri,
    short,
    svg,
)
from mlplatform.report.facts import Drift, Quality, Watched

ACTIONS: dict[Action, tuple[str, str]] = {
    Action.KEEP: ("#9db4c6", "o"),
    Action.ALERT: ("#e0a106", "D"),
    Action.RETRAIN: (ALARM, "^"),
    Action.ROLLBACK: ("#6b2fa0", "v"),
}
"""Colour and mark of each decision."""
WIDTH, LEFT, RIGHT = 11.0, 1.75, 0.85
"""Inches; the same margins in every plot, so that a window stands above itself."""


def quality_plot(windows: Watched, quality: Quality) -> str:
    """Realised quality with its interval, the estimate, reference and limit, and what was decided below."""
    with mpl.rc_context(STYLE):
        figure, (top, strip) = _figure([2.7, 0.62], above=0.62)
        at = np.arange(len(windows))
        _reference(top, at, quality)
        if np.isfinite(quality.estimated).any():
            top.plot(at, quality.estimated, "--", color=ESTIMATED, lw=1.1, label="estimated from scores")
        _realised(top, at, quality)
        top.set_ylabel(quality.measure.replace("_", " "))
        top.grid(axis="y", color=GRID, lw=0.8)
        top.set_axisbelow(True)
        _versions(top, windows)
        top.legend(
            loc="lower left",
            bbox_to_anchor=(0, 1.06),
            ncols=5,
            frameon=False,
            borderaxespad=0,
            handlelength=1.8,
        )
        _decisions(strip, windows)
        return data_uri(svg(figure))


def decisions_plot(windows: Watched) -> str:
    """What was decided, window by window; for models without a measure of quality."""
    with mpl.rc_context(STYLE):
        figure, (strip,) = _figure([0.62])
        _decisions(strip, windows)
        return data_uri(svg(figure))


def drift_plot(windows: Watched, drift: Drift) -> str:
    """A row a column, a field a window: the darker the more it changed; a dot where it counts as drift."""
    with mpl.rc_context(STYLE):
        figure, (axes,) = _figure([max(0.8, 0.27 * len(drift.columns))])
        axes.set_facecolor("#ffffff")
        edges = np.arange(len(windows) + 1) - 0.5
        rows = np.arange(len(drift.columns) + 1) - 0.5
        mesh = axes.pcolormesh(
            edges,
            rows,
            np.ma.masked_invalid(drift.size),
            cmap=HEAT,
            vmin=0,
            vmax=1,
            edgecolor="white",
            lw=0.6 if len(windows) <= 80 else 0.2,
        )
        _dots(axes, drift)
        axes.set_yticks(np.arange(len(drift.columns)), [short(name, 21) for name in drift.columns])
        axes.tick_params(axis="y", length=0, labelcolor=INK)
        axes.invert_yaxis()
        axes.spines[:].set_visible(False)
        _dates(axes, windows)
        _scale(figure, axes, mesh)
        return data_uri(svg(figure))


# ---- parts


def _figure(heights: Sequence[float], above: float = 0.1) -> tuple[Figure, list[Axes]]:
    """Axes below each other, of the given heights in inches, with room above the first."""
    between, below = 0.12, 0.36
    total = above + sum(heights) + between * (len(heights) - 1) + below
    figure = Figure(figsize=(WIDTH, total))
    axes, top = [], total - above
    for height in heights:
        place = (LEFT / WIDTH, (top - height) / total, (WIDTH - LEFT - RIGHT) / WIDTH, height / total)
        axes.append(figure.add_axes(place))
        top -= height + between
    return figure, axes


def _reference(axes: Axes, at: Any, quality: Quality) -> None:
    edges = np.concatenate([at - 0.5, [len(at) - 0.5]])
    known = np.isfinite(quality.reference)
    if known.any():
        axes.stairs(quality.reference, edges, baseline=None, color=INK, lw=1.2, label="reference")
        axes.stairs(quality.limit, edges, baseline=None, color=ALARM, lw=1.1, ls=":", label="tolerated")


def _realised(axes: Axes, at: Any, quality: Quality) -> None:
    share = f"{quality.confidence:.0%} interval" if np.isfinite(quality.confidence) else "interval"
    whole = np.isfinite(quality.low) & np.isfinite(quality.high)
    axes.vlines(at[whole], quality.low[whole], quality.high[whole], color=REALISED, lw=1.6, alpha=0.45)
    label = f"on labelled rows, {share}" if np.isfinite(quality.value).any() else None
    axes.plot(at, quality.value, "-o", color=REALISED, lw=1.3, ms=4.2, label=label)
    bad = quality.alarm & np.isfinite(quality.value)
    if bad.any():
        axes.plot(at[bad], quality.value[bad], "^", color=ALARM, ms=7.5, label="clearly worse")


def _decisions(axes: Axes, windows: Watched) -> None:
    """A mark a window, on a line of its own for each action, so that no colour is needed to tell them."""
    shown = [action for action in ACTIONS if any(d.action is action for _, d in windows)]
    for line, action in enumerate(shown):
        colour, mark = ACTIONS[action]
        at = [i for i, (_, decision) in enumerate(windows) if decision.action is action]
        size = 4.5 if action is Action.KEEP and len(windows) > 80 else 6
        axes.plot(at, [line] * len(at), mark, color=colour, ms=size, mec="white", mew=0.5)
    axes.set_yticks(range(len(shown)), [action.value for action in shown])
    axes.set_ylim(-0.7, max(len(shown) - 0.3, 0.7))
    axes.tick_params(axis="y", length=0, labelsize=8, labelcolor=INK)
    axes.grid(axis="y", color=GRID, lw=0.8)
    axes.set_axisbelow(True)
    axes.spines["left"].set_visible(False)
    _dates(axes, windows)


def _versions(axes: Axes, windows: Watched) -> None:
    """A line where another version began to answer most rows."""
    axes.set_xlim(-0.6, len(windows) - 0.4)
    axes.tick_params(axis="x", labelbottom=False, length=0)
    before = None
    for i, (window, _) in enumerate(windows):
        if window.version != before:
            if before is not None:
                axes.axvline(i - 0.5, color=MUTED, lw=0.9, ls=(0, (4, 3)))
            axes.annotate(
                f"v{window.version}",
                (i - 0.5, 1),
                xycoords=("data", "axes fraction"),
                xytext=(3, 2),
                textcoords="offset points",
                fontsize=8,
                color=MUTED,
            )
        before = window.version


def _dates(axes: Axes, windows: Watched) -> None:
    step = max(1, -(-len(windows) // 9))
    at = list(range(0, len(windows), step))
    starts = [window.start for window, _ in windows]
    length = (windows[0][0].end - windows[0][0].start).total_seconds()
    form = "%Y-%m-%d" if length >= 86_400 else "%m-%d %H:%M" if length >= 60 else "%H:%M:%S"
    axes.set_xlim(-0.6, len(windows) - 0.4)
    axes.set_xticks(at, [f"{starts[i]:{form}}" for i in at])
    axes.tick_params(axis="x", length=3, labelsize=8.5)


def _dots(axes: Axes, drift: Drift) -> None:
    rows, columns = np.nonzero(drift.drifted)
    dark = np.nan_to_num(drift.size[rows, columns]) > 0.45
    axes.scatter(columns, rows, s=9, c=np.where(dark, "#ffffff", INK), linewidths=0)


def _scale(figure: Figure, axes: Axes, mesh: Any) -> None:
    box = axes.get_position()
    inch = 1 / WIDTH
    height = min(box.height, 1.6 / figure.get_figheight())
    place = figure.add_axes((box.x1 + 0.18 * inch, box.y1 - height, 0.13 * inch, height))
    bar = figure.colorbar(mesh, cax=place, ticks=[0, 0.5, 1])
    bar.outline.set_visible(False)
    bar.ax.tick_params(length=0, labelsize=8)
