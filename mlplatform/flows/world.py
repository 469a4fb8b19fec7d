"""All that flows may touch, as one object: ports, the maker of extensions, and two small callbacks."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlplatform.domain.card import CardFacts
from mlplatform.domain.policy import Policy
from mlplatform.domain.use import Use
from mlplatform.ports.clock import Clock, Progress
from mlplatform.ports.data import Observations, Tables
from mlplatform.ports.evaluation import Evaluator
from mlplatform.ports.report import Draw
from mlplatform.ports.state import (
    Deployments,
    Evaluations,
    Intents,
    Leases,
    Ledger,
    Outbox,
    Retrainings,
    Tokens,
    Windows,
)
from mlplatform.ports.store import Bundles, Documents, Placements, Trust
from mlplatform.ports.tracking import Card, Registry, Runs


@dataclass(frozen=True)
class World:
    """Ports by name. Tests pass fakes; `mlplatform.control` passes the real ones."""

    clock: Clock
    ledger: Ledger
    outbox: Outbox
    evaluations: Evaluations
    deployments: Deployments
    windows: Windows
    retrainings: Retrainings
    leases: Leases
    intents: Intents
    tokens: Tokens
    registry: Registry
    runs: Runs
    bundles: Bundles
    documents: Documents
    placements: Placements
    tables: Tables
    observations: Observations
    evaluator: Evaluator
    trust: Trust
    build: Callable[[str, Use], Any]
    """Makes an extension of a kind from its use in the policy."""
    card: Callable[[CardFacts], Card]
    work: Path
    """Folder for files between processes: training logs, extra data of retrainings."""
    progress: Progress = lambda line: None
    beside: Callable[[Policy, str], Path] = lambda policy, name: Path(name)
    """A file that a policy names, which is meant relative to the policy's own."""
    draw: Draw | None = None
    """Draws the report of a version; without it there are none."""


def failpoint(name: str) -> None:
    """Die here by SIGKILL when `MLPLATFORM_FAILPOINT` names this point: crash safety is tested at every step."""
    if os.environ.get("MLPLATFORM_FAILPOINT") == name:
        os.kill(os.getpid(), signal.SIGKILL)
