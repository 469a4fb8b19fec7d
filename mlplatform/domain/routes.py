"""What the control plane tells a server (`routes.json`) and what a worker answers (`workers/<pid>.json`).

The folder of one endpoint, all that both planes share::

    <endpoint>/routes.json          written by the control plane: number, temporary name, fsync, rename
    <endpoint>/workers/<pid>.json   written by each worker: the generation it serves, or why it does not
    <endpoint>/capture/*.npz        blocks of captured requests, created by workers, ingested and deleted by control
    <endpoint>/inbox/*.json         labels that came by `POST /labels`, likewise
    <endpoint>/server.json          written by the target: pid, host, port
    <endpoint>/server.log
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Route:
    """A bundle that answers."""

    model: str
    version: int
    digest: str
    bundle: str
    """Absolute path of the bundle's folder."""
    share: float = 1.0
    """Share of the traffic; the shares of a document add up to 1."""
    arm: str = "live"


@dataclass(frozen=True)
class CaptureRule:
    sample: float = 1.0
    drop_columns: tuple[str, ...] = ()
    context: tuple[str, ...] = ()
    """Columns a request may carry beside the features; captured, never shown to the model."""
    max_bytes: int = 2_000_000_000


@dataclass(frozen=True)
class Routes:
    """Which bundles answer for an endpoint. A server keeps the last good document when a new one does not load."""

    endpoint: str
    generation: int
    routes: tuple[Route, ...]
    standby: tuple[Route, ...] = ()
    """Loaded and warmed, without traffic: a version about to go live, or the one before on probation."""
    capture: CaptureRule = CaptureRule()

    def encode(self) -> bytes:
        return json.dumps(asdict(self), indent=1).encode()

    @classmethod
    def decode(cls, raw: bytes) -> Routes:
        """Read a document; ValueError when it is not one."""
        try:
            d = json.loads(raw)
            capture: dict[str, Any] = {
                k: tuple(v) if isinstance(v, list) else v for k, v in d["capture"].items()
            }
            return cls(
                endpoint=d["endpoint"],
                generation=d["generation"],
                routes=tuple(Route(**r) for r in d["routes"]),
                standby=tuple(Route(**r) for r in d["standby"]),
                capture=CaptureRule(**capture),
            )
        except (KeyError, TypeError, AttributeError, UnicodeDecodeError, json.JSONDecodeError) as error:
            raise ValueError(f"not a routes document: {error!r}") from error


@dataclass(frozen=True)
class WorkerStatus:
    """What one worker serves now."""

    pid: int
    generation: int
    """The generation in effect in this worker; 0 before the first."""
    rejected: int | None = None
    """A newer generation that this worker could not put into effect."""
    error: str = ""
    counts: dict[str, int] | None = None
    """Per `<model>@<version>`: requests answered, and `<model>@<version>:failed`."""

    def encode(self) -> bytes:
        return json.dumps(asdict(self)).encode()

    @classmethod
    def decode(cls, raw: bytes) -> WorkerStatus:
        """Read a status; ValueError when it is not one."""
        try:
            d: dict[str, Any] = json.loads(raw)
            return cls(**d)
        except (TypeError, UnicodeDecodeError, json.JSONDecodeError) as error:
            raise ValueError(f"not a worker status: {error!r}") from error
