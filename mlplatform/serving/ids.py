"""UUIDv7 (RFC 9562): ids that sort by time."""

from __future__ import annotations

import random
import time
from hashlib import blake2b

# Unique, not secret: a generator seeded by the system is ten times cheaper than the system itself.
_bits = random.Random(random.SystemRandom().getrandbits(256)).getrandbits


def uuid7(time_ns: int | None = None) -> str:
    """A new id, 36 characters: milliseconds since 1970, the part of the millisecond in steps of 244 ns, noise.

    The part of the millisecond (RFC 9562, 6.2, method 3) keeps the ids of one process in the order of their making.
    """
    ms, rest_ns = divmod(time.time_ns() if time_ns is None else time_ns, 1_000_000)
    high = ms << 16 | 0x7000 | rest_ns * 4096 // 1_000_000
    low = 0x8000_0000_0000_0000 | _bits(62)
    text = f"{high:016x}{low:016x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


def fraction(key: str, purpose: str = "") -> float:
    """A number in [0, 1) that only the key decides, evenly spread over keys, independent between purposes.

    >>> fraction("a") == fraction("a")
    True
    """
    raw = blake2b(f"{purpose}/{key}".encode(), digest_size=6).digest()
    return int.from_bytes(raw) / 2**48
