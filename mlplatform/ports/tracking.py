"""MLflow: its registry, its runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from mlplatform.domain.bundle import Column, Manifest, Task


@dataclass(frozen=True)
class Card:
    """What MLflow's UI shows of a version: Markdown, and small tags."""

    markdown: str
    tags: Mapping[str, str]


@dataclass(frozen=True)
class OutsideView:
    """What MLflow holds of a model, whoever put it there."""

    aliases: Mapping[str, int]
    versions: frozenset[int]


class Registry(Protocol):
    """MLflow's model registry. Its aliases, tags and descriptions are projections of the ledger."""

    def create(self, model: str, run_id: str, key: str) -> int:
        """Number of the new version; the number that is there when the key was used before."""

    def discard(self, model: str, key: str) -> None:
        """Undo `create`; nothing happens when there is nothing."""

    def project(self, model: str, aliases: Mapping[str, int | None], cards: Mapping[int, Card]) -> None:
        """Make MLflow show this. An alias that is None is removed, whoever set it; one that is not named stays
        unless it is ours."""

    def outside(self, model: str) -> OutsideView: ...


@dataclass(frozen=True)
class Candidate:
    """What the training SDK logged with a run, downloaded."""

    run_id: str
    model_folder: Path
    """MLflow model folder."""
    runtime: str
    inputs: tuple[Column, ...]
    task: Task
    sample: Path
    holdout: Path
    reference: Path
    """Parquet files: features and target; the reference is the training data or a sample of it."""
    trained_on: Path
    """`.npy` of uint64 row digests of the training rows, sorted."""
    requirements: Mapping[str, str]
    author: str
    metrics: Mapping[str, float] = field(default_factory=dict)
    parameters: Mapping[str, str] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class RunDetails:
    parameters: Mapping[str, str]
    metrics: Mapping[str, float]


class Runs(Protocol):
    """Training runs."""

    def train(self, project: Path, parameters: Mapping[str, str], model: str, log: Path) -> str:
        """Run the project's `main` entry point as a process of its own; its run id. Raises TrainingFailed."""

    def candidate(self, run_id: str, into: Path) -> Candidate:
        """Download what the SDK logged; raises NotACandidate when parts are missing."""

    def log_derived(self, parent_run_id: str, bundle: Path, manifest: Manifest, technique: str) -> str:
        """A nested run that holds a compressed child's model in MLflow's own format; its run id."""

    def log_artifact(self, run_id: str, path: Path, folder: str) -> None: ...
    def details(self, run_id: str) -> RunDetails: ...
