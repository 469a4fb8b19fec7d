"""What a server answers to GET: health, metadata, metrics, OpenAPI."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from mlplatform.serving.dataplane import DataPlane
from mlplatform.serving.models.predictor import Arm, Table
from mlplatform.serving.openapi import document, guarded
from mlplatform.serving.paths import Place
from mlplatform.serving.problems import Unavailable
from mlplatform.serving.protocols.tensors import COLUMN_DATATYPES
from mlplatform.serving.scrape import installed_version

JSON = b"application/json"
_TEXT = b"text/plain; charset=utf-8"


class Page(NamedTuple):
    content: bytes
    content_type: bytes = JSON
    status: int = 200


class Pages:
    """The pages of one worker, but for the metrics."""

    def __init__(self, plane: DataPlane) -> None:
        self.health: list[Callable[[], dict[str, Any]]] = []
        """What else `/health` tells."""
        self._plane = plane
        self.guarded = False
        """Whether requests need a token."""
        self._described: tuple[Table | None, bytes] = (None, b"")

    def get(self, place: Place, details: bool = True) -> Page:
        """A page that exists, where it may tell them with details; NotThere for a model that is not routed."""
        match place.page:
            case "/ping":
                return Page(b"\n", _TEXT)
            case "/health":
                return self._health("status", details)
            case "/version":
                return Page(installed_version().encode(), _TEXT)
            case "/openapi.json":
                return Page(self._openapi())
            case _:
                return self._v2(place, details)

    def _v2(self, place: Place, details: bool) -> Page:
        match place.page:
            case "/v2":
                return _json(
                    {
                        "name": "mlplatform",
                        "version": installed_version(),
                        "extensions": ["binary_tensor_data"],
                    }
                )
            case "/v2/health/live":
                return _json({"live": True})
            case "/v2/health/ready":
                return self._health("ready", details)
        table, failures = self._plane.router.table, self._plane.router.failures
        if place.page == "ready" and place.model in table.asleep:
            if place.model in failures:
                raise Unavailable(failures[place.model])
            return _json({"name": place.model, "ready": True})
        arms = table.named(place.model, place.version)
        if place.page == "ready":
            return _json({"name": place.model, "ready": True})
        return _json(metadata(arms))

    def _health(self, first: str, details: bool) -> Page:
        """`first`: what is told in any case."""
        ready = bool(self._plane.router.table.models)
        told = {"ready": ready} if first == "ready" else {}
        told |= self._plane.health()
        for tell in self.health:
            told |= tell()
        return _json(told if details else {first: told[first]}, 200 if ready else 503)

    def _openapi(self) -> bytes:
        table = self._plane.router.table
        if self._described[0] is not table:
            described = document(table, installed_version())
            told = guarded(described) if self.guarded else described
            self._described = (table, json.dumps(told).encode())
        return self._described[1]


def metadata(arms: Iterable[Arm]) -> dict[str, Any]:
    """A model as the Open Inference Protocol describes it: inputs of the version with the largest share."""
    arms = tuple(arms)
    arm = max(arms, key=lambda arm: arm.route.share)
    inputs = [
        {"name": column.name, "datatype": COLUMN_DATATYPES[column.dtype], "shape": [-1, *column.shape]}
        for column in arm.bundle.manifest.inputs
    ]
    outputs = [
        {"name": o.name, "datatype": o.datatype, "shape": [-1, *o.shape[1:]]} for o in arm.bundle.outputs
    ]
    return {
        "name": arm.route.model,
        "versions": sorted({str(arm.route.version) for arm in arms}, key=int),
        "platform": f"mlplatform_{arm.bundle.manifest.runtime}",
        "inputs": inputs,
        "outputs": outputs,
    }


def _json(content: dict[str, Any], status: int = 200) -> Page:
    return Page(json.dumps(content).encode(), status=status)
