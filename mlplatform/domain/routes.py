"""What the control plane tells a server (`routes.json`) and what a worker answers (`workers/<pid>.json`).

The folder of one endpoint, all that both planes share::

    <endpoint>/routes.json          written by the control plane: number, temporary name, fsync, rename
    <endpoint>/access.json          likewise: the tokens that hold, see `mlplatform.domain.access`
    <endpoint>/workers/<pid>.json   written by each worker: the generation it serves, or why it does not
    <endpoint>/workers/*.metrics    what it has counted; see `mlplatform.domain.counts`
    <endpoint>/capture/*.npz        blocks of captured requests, created by workers, ingested and deleted by control
    <endpoint>/inbox/*.json         labels that came by `POST /labels`, likewise
    <endpoint>/server.json          written by the server: pid, host, port, its settings
    <endpoint>/settings.json        other settings that a running one is told; gone once they are in effect
    <endpoint>/server.log
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

LIVE = "live"
"""The arm of the version that holds the stage."""


@dataclass(frozen=True)
class Route:
    """A bundle that answers."""

    model: str
    version: int
    digest: str
    bundle: str
    """Absolute path of the bundle's folder."""
    share: float = 1.0
    """Share of the model's traffic; the shares of a model add up to 1."""
    arm: str = LIVE
    key: str = ""
    """What a request stays on its version by, while versions share the traffic: a column, or `header:NAME`."""
    max_waiting: int = 256
    """Requests of this model that may wait for a thread of a worker; the next is told to come again."""
    runs_code: bool = False
    """Whether its model may run code of its own, as the policy says; without it a server loads no such model."""


@dataclass(frozen=True)
class CaptureRule:
    sample: float = 1.0
    drop_columns: tuple[str, ...] = ()
    context: tuple[str, ...] = ()
    """Columns a request may carry beside the features; captured, never shown to the model."""
    max_bytes: int = 2_000_000_000


@dataclass(frozen=True)
class Part:
    """What a document says of one model."""

    routes: tuple[Route, ...]
    standby: tuple[Route, ...]
    capture: CaptureRule

    def check(self) -> None:
        """ValueError for a part that cannot be carried out."""
        shares = [route.share for route in self.routes]
        if any(not 0 <= share <= 1 for share in shares) or (shares and abs(sum(shares) - 1) > 1e-6):
            raise ValueError(f"the shares {shares} do not add up to 1")


@dataclass(frozen=True)
class Routes:
    """Which bundles answer for an endpoint. Of a model whose part does not load, a server keeps the last good part."""

    endpoint: str
    generation: int
    routes: tuple[Route, ...]
    standby: tuple[Route, ...] = ()
    """Loaded and warmed, without traffic: a version about to go live, or the one before on probation. Of arm `shadow`:
    it is asked beside the live one, and its answers are compared and never returned."""
    capture: CaptureRule = CaptureRule()
    """Of the models that `captures` does not name."""
    captures: Mapping[str, CaptureRule] = field(default_factory=dict)
    withdrawn: tuple[str, ...] = ()
    """Models that were taken out on purpose: nobody puts them back unasked."""
    memory_mb: int = 0
    """What the loaded models of one worker may take; 0 is no limit."""

    @property
    def models(self) -> tuple[str, ...]:
        """Every model with a route or a version on standby."""
        return tuple(dict.fromkeys(r.model for r in (*self.routes, *self.standby)))

    def with_code(self, allowed: bool) -> Routes:
        """The same, where every model may or may not run code of its own."""
        routes, standby = (
            tuple(replace(r, runs_code=allowed) for r in part) for part in (self.routes, self.standby)
        )
        return replace(self, routes=routes, standby=standby)

    def part(self, model: str) -> Part:
        """What the document says of one model."""
        return self.parts().get(model, Part((), (), self.capture))

    def parts(self) -> dict[str, Part]:
        """What the document says of each model."""
        routes: dict[str, list[Route]] = {}
        standby: dict[str, list[Route]] = {}
        for found, where in ((self.routes, routes), (self.standby, standby)):
            for route in found:
                where.setdefault(route.model, []).append(route)
        return {
            name: Part(
                tuple(routes.get(name, ())),
                tuple(standby.get(name, ())),
                self.captures.get(name, self.capture),
            )
            for name in self.models
        }

    def with_parts(self, new: Routes, models: Collection[str]) -> Routes:
        """`new`, which speaks of `models` only, and what this document says of all others."""
        taken_out = [name for name in models if name not in new.models]
        kept = {
            name: rule for name, rule in self.captures.items() if name in self.models and name not in models
        }
        others = {name: self.capture for name in self.models if name not in models}
        stay = [name for name in self.withdrawn if name not in models]
        return replace(
            new,
            routes=(*(r for r in self.routes if r.model not in models), *new.routes),
            standby=(*(r for r in self.standby if r.model not in models), *new.standby),
            captures={**others, **kept, **{name: new.captures.get(name, new.capture) for name in new.models}},
            withdrawn=(*stay, *taken_out),
        )

    def encode(self) -> bytes:
        return json.dumps(asdict(self), indent=1).encode()

    @classmethod
    def decode(cls, raw: bytes) -> Routes:
        """Read a document; ValueError when it is not one."""
        try:
            d = json.loads(raw)
            return cls(
                endpoint=d["endpoint"],
                generation=d["generation"],
                routes=tuple(Route(**r) for r in d["routes"]),
                standby=tuple(Route(**r) for r in d["standby"]),
                capture=_rule(d["capture"]),
                captures={model: _rule(rule) for model, rule in d.get("captures", {}).items()},
                withdrawn=tuple(d.get("withdrawn", ())),
                memory_mb=d.get("memory_mb", 0),
            )
        except (KeyError, TypeError, AttributeError, UnicodeDecodeError, json.JSONDecodeError) as error:
            raise ValueError(f"not a routes document: {error!r}") from error


def _rule(raw: dict[str, Any]) -> CaptureRule:
    values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in raw.items()}
    return CaptureRule(**values)


@dataclass(frozen=True)
class WorkerStatus:
    """What one worker serves now."""

    pid: int
    generation: int
    """The newest generation that is in effect in every part in this worker; 0 before the first."""
    rejected: int | None = None
    """A newer generation that this worker could not put into effect, or not in every part."""
    error: str = ""
    counts: dict[str, int] | None = None
    """Per `<model>@<version>`: requests answered, and `<model>@<version>:failed`."""
    taken: int = 0
    """The newest generation that this worker has taken in; `behind` names the models that it does not serve as
    that one says."""
    behind: dict[str, str] | None = None
    """By model: why its part is not in effect; "" while it is loading."""

    def serves(self, model: str = "") -> int:
        """The newest generation that is in effect for a model; for all of them where none is named."""
        behind = self.behind or {}
        return max(self.taken, self.generation) if model and model not in behind else self.generation

    def refuses(self, generation: int, model: str = "") -> str:
        """Why a generation will not be in effect for a model, or for one of all; "" while that is not known."""
        if self.serves(model) >= generation:
            return ""
        if self.taken >= generation and self.behind is not None:
            return self.behind.get(model, "") if model else next(filter(None, self.behind.values()), "")
        return self.error if self.rejected == generation else ""

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
