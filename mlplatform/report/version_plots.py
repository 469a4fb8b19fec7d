"""Plots of one version, and of a metric over versions."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mlplatform.domain.trend import Point, Trend
from mlplatform.domain.verdict import Measurement
from mlplatform.ports.report import Beside
from mlplatform.report.drawing import ALARM, ESTIMATED, GRID, HEAT, INK, MUTED, REALISED, STYLE, short, svg
from mlplatform.stats.diagnosis import Confusion, Reliable, Residuals

MARKS = "osD^vPX*"
"""One a kind of rows; with more kinds they repeat, and the legend's letters still tell them apart."""
MOST_METRICS, MOST_SLICES = 5, 24


def metrics_plot(own: str, rival: str, metrics: Sequence[Beside]) -> str:
    """Each metric with its interval, above the rival's on the same rows; on a scale of its own."""
    shown = list(metrics)[:MOST_METRICS]
    with mpl.rc_context(STYLE):
        height = 0.92 * len(shown)
        figure = Figure(figsize=(6.4, height))
        figure.patch.set_facecolor("white")
        for i, beside in enumerate(shown):
            axes = figure.add_axes((0.17, 1 - (0.92 * i + 0.66) / height, 0.42, 0.42 / height))
            _two(axes, beside, own, rival)
            axes.text(1.05, 0.5, _said(beside), transform=axes.transAxes, va="center", fontsize=8.5)
        return svg(figure, transparent=False)


def slices_plot(findings: Sequence[Measurement]) -> str:
    """Every slice of the rows with its interval."""
    shown = list(findings)[:MOST_SLICES]
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(7.6, 0.6 + 0.27 * len(shown)))
        axes = figure.add_axes((0.36, 0.45 / figure.get_figheight(), 0.6, 1 - 0.6 / figure.get_figheight()))
        for y, measurement in enumerate(shown):
            _whisker(axes, measurement, y, REALISED, "o")
        names = [f"{m.name} (n={m.n})" if m.n is not None else m.name for m in shown]
        axes.set_yticks(range(len(shown)), [short(name, 44) for name in names])
        axes.invert_yaxis()
        _plain(axes)
        return svg(figure)


def confusion_plot(found: Confusion) -> str:
    """Shares of each true class, by what was answered; the figures are rows."""
    counts = np.array(found.counts, np.float64)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    size = max(4.6, min(6.4, 1.6 + 0.42 * len(found.classes)))
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(size, size))
        axes = figure.add_axes((0.2, 0.2, 0.76, 0.76))
        axes.imshow(shares, cmap=HEAT, vmin=0, vmax=1)
        for (row, column), count in np.ndenumerate(counts):
            colour = "#ffffff" if shares[row, column] > 0.55 else INK
            axes.text(column, row, f"{count:.0f}", ha="center", va="center", color=colour, fontsize=8)
        at = range(len(found.classes))
        names = [short(name, 12) for name in found.classes]
        axes.set_xticks(at, names, rotation=90 if max(map(len, names)) > 3 else 0)
        axes.set_yticks(at, names)
        axes.tick_params(length=0, labelcolor=INK)
        axes.spines[:].set_visible(False)
        axes.set_xlabel("answered")
        axes.set_ylabel("true")
        return svg(figure)


def reliability_plot(bins: Sequence[Reliable]) -> str:
    """How often it came true against the probability that was given; a good model lies on the diagonal."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(4.6, 4.2))
        axes = figure.add_axes((0.16, 0.14, 0.8, 0.82))
        axes.plot([0, 1], [0, 1], ls=":", color=MUTED, lw=1)
        x = [b.predicted for b in bins]
        axes.vlines(x, [b.low for b in bins], [b.high for b in bins], color=REALISED, lw=1.6, alpha=0.45)
        axes.plot(x, [b.observed for b in bins], "-o", color=REALISED, lw=1.2, ms=4.5)
        axes.set_xlim(-0.02, 1.02)
        axes.set_ylim(-0.02, 1.02)
        axes.set_xlabel("probability given")
        axes.set_ylabel("share that came true")
        axes.grid(color=GRID, lw=0.8)
        axes.set_axisbelow(True)
        return svg(figure)


def residuals_plot(found: Residuals) -> str:
    """How far the answers are off, within the middle 98 % of the rows."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(5.4, 3.6))
        axes = figure.add_axes((0.14, 0.16, 0.82, 0.8))
        axes.stairs(found.counts, found.edges, fill=True, color=REALISED, alpha=0.75)
        axes.axvline(0, color=INK, lw=1)
        axes.axvline(found.median, color=ALARM, lw=1.2, ls="--", label=f"median {found.median:.3g}")
        axes.legend(frameon=False, loc="upper right")
        axes.set_xlabel("answer less truth")
        axes.set_ylabel("rows")
        axes.grid(axis="y", color=GRID, lw=0.8)
        axes.set_axisbelow(True)
        return svg(figure)


def trend_plot(trend: Trend, into: Path) -> None:
    """A metric over versions as PNG, SVG or PDF, as the file's name says. Lines join only what shares its rows."""
    points = trend.known
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(max(6.0, min(14.0, 2.5 + 0.55 * len(points))), 3.8))
        figure.patch.set_facecolor("white")
        axes = figure.add_axes((0.11, 0.17, 0.86, 0.68))
        place = {point.version.number: x for x, point in enumerate(points)}
        for i, name in enumerate(trend.rows):
            mine = [p for p in points if p.rows == name]
            _series(axes, place, mine, name, MARKS[i % len(MARKS)])
        _mark_live(axes, place, points)
        step = max(1, len(points) // 24)
        axes.set_xticks(range(0, len(points), step), [str(p.version.number) for p in points[::step]])
        axes.set_xlim(-0.6, max(len(points), 1) - 0.4)
        axes.set_xlabel("version")
        better = "higher is better" if trend.higher_is_better else "lower is better"
        axes.set_ylabel(f"{trend.metric} ({better})")
        axes.grid(axis="y", color=GRID, lw=0.8)
        axes.set_axisbelow(True)
        axes.margins(y=0.18)
        if points:
            axes.legend(
                loc="lower left", bbox_to_anchor=(0, 1.02), ncols=3, frameon=False, borderaxespad=0, title="rows",
                alignment="left",
            )  # fmt: skip
        figure.savefig(into, dpi=110)


# ---- parts


def _two(axes: Axes, beside: Beside, own: str, rival: str) -> None:
    _whisker(axes, beside.own, 1, REALISED, "o")
    names = [own]
    if beside.rival:
        _whisker(axes, beside.rival, 0, ESTIMATED, "s")
        names = [rival, own]
    axes.set_yticks(range(2 - len(names), 2), [short(name, 18) for name in names])
    axes.set_ylim(-0.6 if beside.rival else 0.4, 1.6)
    axes.set_title(beside.own.name.replace("_", " "), loc="left", fontsize=9.5, pad=3)
    _plain(axes)


def _said(beside: Beside) -> str:
    if beside.difference is None:
        return ""
    d = beside.difference
    between = f" [{d.low:+.3g}, {d.high:+.3g}]" if d.low is not None and d.high is not None else ""
    return f"difference {d.value:+.3g}{between}\n{beside.said}"


def _whisker(axes: Axes, measurement: Measurement, y: float, colour: str, mark: str) -> None:
    if measurement.low is not None and measurement.high is not None:
        axes.hlines(y, measurement.low, measurement.high, color=colour, lw=2, alpha=0.45)
    axes.plot([measurement.value], [y], mark, color=colour, ms=6)


def _series(axes: Axes, place: dict[int, int], points: Sequence[Point], name: str, mark: str) -> None:
    values = [(place[p.version.number], p.value) for p in points if p.value]
    if not values:
        return
    x = [at for at, _ in values]
    line = axes.plot(
        x, [v.value for _, v in values], f"-{mark}", lw=1.1, ms=5.5, label=f"{name} (n={values[0][1].n})"
    )
    bounds = [(at, v.low, v.high) for at, v in values if v.low is not None and v.high is not None]
    if bounds:
        at, low, high = zip(*bounds, strict=True)
        axes.vlines(at, low, high, color=line[0].get_color(), lw=1.8, alpha=0.4)


def _mark_live(axes: Axes, place: dict[int, int], points: Sequence[Point]) -> None:
    for point in points:
        if point.live and point.value:
            axes.annotate(
                "live",
                (
                    place[point.version.number],
                    point.value.value if (high := point.value.high) is None else high,
                ),
                xytext=(0, 5),
                textcoords="offset points",
                ha="center",
                color=ALARM,
                fontsize=8.5,
                fontweight="bold",
            )


def _plain(axes: Axes) -> None:
    axes.grid(axis="x", color=GRID, lw=0.8)
    axes.set_axisbelow(True)
    axes.spines["left"].set_visible(False)
    axes.tick_params(axis="y", length=0, labelcolor=INK)
    axes.tick_params(axis="x", length=2, labelsize=8)
