"""How much a model server takes on."""

from __future__ import annotations

from dataclasses import asdict, dataclass

BODIES = 16
"""Bodies of the largest size that a worker holds while they are on their way, and as many again while they wait."""


@dataclass(frozen=True)
class RequestLimits:
    """What a worker of a model server takes on before it refuses; each worker counts for itself."""

    max_body_bytes: int = 16_000_000
    """A larger body is refused (413) before it is read."""
    max_waiting: int = 1024
    """Requests that wait for a model, a thread or the disk; the next gets 429 and `Retry-After`. Where several models
    share a server, one may take a quarter of it."""
    max_connections: int = 2048
    """Open connections; the next gets 503 and `Retry-After`."""
    deadline_ms: int = 30_000
    """A request that has no answer after so long is told so (504)."""

    def __post_init__(self) -> None:
        if low := [name for name, value in asdict(self).items() if value < 1]:
            raise ValueError(f"{' and '.join(low)} must be at least 1")

    @property
    def held_bytes(self) -> int:
        """Of bodies that are on their way, and of those that wait, each."""
        return BODIES * self.max_body_bytes

    def words(self) -> list[str]:
        """As options of a command: `--max-body-bytes 16000000` and so on."""
        return [word for name, value in asdict(self).items() for word in (option(name), str(value))]


def option(name: str) -> str:
    return "--" + name.replace("_", "-")
