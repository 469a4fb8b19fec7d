"""How much a model folder may hold, and the refusal that the walks raise."""

from __future__ import annotations

from mlplatform.domain.bundle import MAX_BYTES as MAX_BYTES
from mlplatform.domain.bundle import MAX_FILES as MAX_FILES

MAX_DEPTH = 12
MAX_TEXT = 1 << 20
MAX_JSON = 64 << 20
MAX_MEMBERS = 20_000
MAX_RATIO = 100
MAX_PICKLE = 1 << 20


class Unsafe(Exception):
    """Something that may not be loaded; the message is the reason."""
