"""Markdown as MLflow's UI shows it, with text that people typed and that must not become markup."""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import datetime

_SIGNS = re.compile(r"[\\|\[\]`!*~#{}]|(?<!\w)_|_(?!\w)")
_LINKS = (
    (re.compile(r"://"), "&#58;//"),
    (re.compile(r"(?i)\bwww\."), "www&#46;"),
    (re.compile(r"@(?=[^\s@]*\.)"), "&#64;"),
)
"""What MLflow's Markdown turns into links by itself: addresses of the web, and of people."""
_CONTROL = re.compile(r"[\x00-\x1f\x7f\u200b-\u200f\u2028-\u202e\u2066-\u2069]+")
"""Also what would turn the direction of the text around."""


def cell(text: object) -> str:
    """One line that cannot leave its cell, nor bring markup, HTML or links of its own."""
    line = " ".join(_CONTROL.sub(" ", str(text)).split())
    line = line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    line = _SIGNS.sub(lambda sign: f"\\{sign[0]}", line)
    for pattern, harmless in _LINKS:
        line = pattern.sub(harmless, line)
    return line


def short(text: str, width: int) -> str:
    """One line of at most so many characters."""
    line = " ".join(text.split())
    return line if len(line) <= width else f"{line[: width - 3]}..."


def table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    """Cells are Markdown already."""
    return "\n".join("| " + " | ".join(line) + " |" for line in (head, ("---",) * len(head), *rows))


def moment(at: datetime) -> str:
    return f"{at:%Y-%m-%d %H:%M}"


def size(size_bytes: int) -> str:
    """
    >>> size(1_234_567)
    '1.23 MB'
    """
    for unit, factor in (("MB", 1e6), ("kB", 1e3)):
        if size_bytes >= factor:
            return f"{size_bytes / factor:.3g} {unit}"
    return f"{size_bytes} B"
