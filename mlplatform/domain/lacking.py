"""A table's check that misses another part of the table."""

from __future__ import annotations


class Lacking(ValueError):
    """The part is told apart: one that is there and has mistakes of its own is not lacking."""

    def __init__(self, part: str, why: str) -> None:
        self.part = part
        super().__init__(why)
