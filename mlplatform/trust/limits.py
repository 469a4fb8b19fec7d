"""How much a model folder may hold, and the refusal that the walks raise."""

from __future__ import annotations

MAX_FILES = 2_000
MAX_BYTES = 4 << 30
MAX_DEPTH = 12
MAX_TEXT = 1 << 20
MAX_JSON = 64 << 20
MAX_MEMBERS = 20_000
MAX_RATIO = 100
MAX_PICKLE = 1 << 20


class Unsafe(Exception):
    """Something that may not be loaded; the message is the reason."""
