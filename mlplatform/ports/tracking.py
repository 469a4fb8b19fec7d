"""MLflow: its registry, its runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

from mlplatform.domain.bundle import Column, Manifest, Parameter, Task


@dataclass(frozen=True)
class Card:
    """What MLflow's UI shows of a version: Markdown, and small tags."""

    markdown: str
    tags: Mapping[str, str]


APPROVE_TAG, ANSWER_TAG = "mlplatform.approve.", "mlplatform.approval."
"""Of a version in MLflow, followed by a stage: what a person writes, and the answer to it."""


@dataclass(frozen=True)
class TaggedApproval:
    """Somebody wrote the tag `mlplatform.approve.<stage>` on a version in MLflow. MLflow keeps no author."""

    version: int
    stage: str
    reason: str


@dataclass(frozen=True)
class OutsideView:
    """What MLflow holds of a model, whoever put it there."""

    aliases: Mapping[str, int]
    versions: frozenset[int]
    approvals: tuple[TaggedApproval, ...] = ()
    """Ordered by version and stage."""
    keys: Mapping[int, str] = field(default_factory=dict)
    """The keys that versions were created with, by number; a version that somebody else made has none."""
    edited: frozenset[int] = frozenset()
    """Versions whose card is not the one that was projected last."""
    exists: bool = True
    """Whether there is a registered model of that name."""
    renamed: str = ""
    """The name that it has now, where there is none of that name."""


class Registry(Protocol):
    """MLflow's model registry. Its aliases, tags and descriptions are projections of the ledger."""

    def create(self, model: str, run_id: str, key: str, after: int = 0) -> int:
        """Number of the new version; the number that is there when the key was used before.

        `after`: the largest number that was given so far; Refused when MLflow no longer knows the model.
        """

    def discard(self, model: str, key: str) -> None:
        """Undo `create`; nothing happens when there is nothing."""

    def project(self, model: str, aliases: Mapping[str, int | None], cards: Mapping[int, Card]) -> None:
        """Make MLflow show this. An alias that is None is removed, whoever set it; one that is not named stays
        unless it is ours."""

    def outside(self, model: str) -> OutsideView: ...

    def aliases_of(self, model: str) -> Mapping[str, int] | None:
        """What the aliases name, in one request; None for a model that MLflow does not know."""

    def rename(self, old: str, new: str) -> None: ...


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
    """Of the training."""
    options: Mapping[str, Any] = field(default_factory=dict)
    params: tuple[Parameter, ...] = ()
    """Of the model's signature."""


@dataclass(frozen=True)
class RunDetails:
    """What a run says of itself, in the order of the names."""

    parameters: Mapping[str, str]
    metrics: Mapping[str, float]
    datasets: Mapping[str, str] = field(default_factory=dict)
    """Digests by name and context, as MLflow made them: `train (training)`."""
    commit: str = ""
    """The git commit of the training code, where MLflow found one."""


class Runs(Protocol):
    """Training runs."""

    def train(self, project: Path, parameters: Mapping[str, str], model: str, log: Path) -> str:
        """Run the project's `main` entry point as a process of its own; its run id. Raises TrainingFailed."""

    def named(self, text: str) -> str:
        """The id of the run that is called so, or whose id alone begins so, with at least 8 characters. Raises
        UnknownName; UsageError, naming them, where several do."""

    def candidate(self, run_id: str, into: Path) -> Candidate:
        """Download what the SDK logged; raises NotACandidate when parts are missing."""

    def log_derived(self, parent_run_id: str, bundle: Path, manifest: Manifest, technique: str) -> str:
        """A nested run that holds a compressed child's model in MLflow's own format; its run id."""

    def keep(
        self, run_id: str, folder: str, digest: str, draw: Callable[[], Mapping[str, str]]
    ) -> Mapping[str, str]:
        """Files beside the run, below `mlplatform/<folder>/`, drawn only where those of this digest are not there yet.

        Addresses in MLflow's UI, by file name, of all that was ever kept beside the run. Raises UnknownName.
        """

    def details(self, run_id: str) -> RunDetails:
        """Raises UnknownName."""

    def lifecycle(self, run_id: str) -> Literal["active", "deleted", "gone"]:
        """`deleted` can be restored, `gone` cannot."""

    def restore(self, run_id: str) -> None: ...
