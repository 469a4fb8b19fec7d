"""UUIDv7 (RFC 9562): ids that sort by time."""

from __future__ import annotations

import os
import time
from hashlib import blake2b

_AT_ONCE = 256
_tails: list[str] = []
os.register_at_fork(after_in_child=_tails.clear)
_begun = (-1, "")
"""The last id's millisecond, and how ids of it begin; one object, because threads make ids too."""


def uuid7(time_ns: int | None = None) -> str:
    """A new id, 36 characters: milliseconds since 1970, the part of the millisecond in steps of 244 ns, noise.

    The part of the millisecond (RFC 9562, 6.2, method 3) keeps the ids of one process in the order of their making.
    """
    global _begun
    ms, rest_ns = divmod(time.time_ns() if time_ns is None else time_ns, 1_000_000)
    known_ms, begin = _begun
    if ms != known_ms:
        begin = f"{ms >> 16:08x}-{ms & 0xFFFF:04x}-7"
        _begun = (ms, begin)
    try:
        tail = _tails.pop()
    except IndexError:
        _tails.extend(_noise())
        tail = _tails.pop()
    return f"{begin}{rest_ns * 4096 // 1_000_000:03x}{tail}"


def _noise() -> list[str]:
    """Ends of ids: 62 bits of the system's noise each; many at once cost a tenth."""
    noise = os.urandom(8 * _AT_ONCE).hex()
    parts = [noise[i : i + 16] for i in range(0, len(noise), 16)]
    return [f"-{'89ab'[int(p[0], 16) & 3]}{p[1:4]}-{p[4:]}" for p in parts]


def fraction(key: str, purpose: str = "") -> float:
    """A number in [0, 1) that only the key decides, evenly spread over keys, independent between purposes.

    >>> fraction("a") == fraction("a")
    True
    """
    raw = blake2b(f"{purpose}/{key}".encode(), digest_size=6).digest()
    return int.from_bytes(raw) / 2**48
