"""What all plots share: colours that people who do not see red and green can tell apart, one style, SVG as text."""

from __future__ import annotations

import warnings
from base64 import b64encode
from io import BytesIO
from typing import Any

from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

INK, MUTED, GRID = "#1f2933", "#64707d", "#e4e8ec"
REALISED, ESTIMATED, ALARM = "#0b63a5", "#7a8794", "#c2410c"
HEAT = LinearSegmentedColormap.from_list("heat", ["#f4f7fa", "#c7dcea", "#6fa8cd", "#1f6aa5", "#0a2f52"])
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",  # text stays text: any script, and a third of the size
    "svg.hashsalt": "mlplatform",
    "font.family": "DejaVu Sans",
    "font.size": 9.5,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "text.color": INK,
    "text.parse_math": False,
}


def svg(figure: Figure, transparent: bool = True) -> str:
    """The drawing as text; the same figure gives the same text."""
    out = BytesIO()
    with warnings.catch_warnings():
        # the reader's browser has the glyphs that our font lacks
        warnings.filterwarnings("ignore", "Glyph .* missing from font")
        figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None}, transparent=transparent)
    return out.getvalue().decode()


def data_uri(drawing: str) -> str:
    """An image of its own, whose ids cannot meet those of another plot."""
    return "data:image/svg+xml;base64," + b64encode(drawing.encode()).decode()


def short(name: str, width: int) -> str:
    """Both ends: names of one family differ in their last letters."""
    half = (width - 1) // 2
    return name if len(name) <= width else f"{name[:half]}…{name[-half:]}"
