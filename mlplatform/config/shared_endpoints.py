"""Policies of several models that name one endpoint: its server is one, so what it is like must be said alike."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from mlplatform.domain.endpoint import Endpoint
from mlplatform.domain.policy import Policy
from mlplatform.errors import BadPolicy


def demand_agreement(policies: Iterable[tuple[Path, Policy]]) -> None:
    """Raises BadPolicy for who wants an endpoint with another address, tokens, TLS or size than somebody before."""
    first: dict[str, tuple[Path, dict[str, Any]]] = {}
    for path, policy in policies:
        for stage, demands in policy.stages.items():
            if (endpoint := demands.endpoint) is None:
                continue
            wanted = _server(path.parent, endpoint)
            known, theirs = first.setdefault(endpoint.name, (path, wanted))
            if other := [key for key in wanted if wanted[key] != theirs[key]]:
                where = f"stages.{stage}.endpoint.{other[0]}"
                raise BadPolicy(
                    str(path),
                    [f"{where}: {known} says it otherwise, and endpoint {endpoint.name!r} has one server"],
                )


def _server(folder: Path, endpoint: Endpoint) -> dict[str, Any]:
    """Whatever is the server's, and not one model's."""
    tls = endpoint.tls and [(folder / name).resolve() for name in (endpoint.tls.cert, endpoint.tls.key)]
    return {
        "host": endpoint.host,
        "auth": endpoint.demands_tokens,
        "tls": tls,
        "behind_proxy": endpoint.behind_proxy,
        "target": endpoint.target,
        "options": dict(endpoint.options),
        "port": endpoint.port,
        "workers": endpoint.workers,
        "limits": endpoint.limits,
        "log": endpoint.log,
        "memory_mb": endpoint.memory_mb,
    }
