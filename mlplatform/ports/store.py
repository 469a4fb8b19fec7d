"""Bundles, the documents that servers read, and the inspection of foreign files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Protocol

from mlplatform.domain.access import AccessList, Grant
from mlplatform.domain.bundle import Manifest
from mlplatform.domain.chain import Head
from mlplatform.domain.counts import Counted
from mlplatform.domain.placement import Placement
from mlplatform.domain.routes import Routes, WorkerStatus

Stage = Callable[[], AbstractContextManager[Path | str]]
"""Makes an empty folder that is gone after its block: `Bundles.stage`, swept when its process was killed."""


@dataclass(frozen=True)
class Stored:
    """A bundle, or a file of the evidence beside it."""

    digest: str
    name: str
    """Of the evidence's file; "" for the bundle itself."""
    size_bytes: int
    written_at: datetime


class Heads(Protocol):
    """Heads of the ledger's chains, kept where who can change the database cannot."""

    def read(self) -> list[Head] | None:
        """None when none were ever kept."""

    def write(self, heads: Sequence[Head]) -> None: ...


class Bundles(Protocol):
    """Content-addressed, immutable folders."""

    def freeze(self, staged: Path, manifest: Manifest) -> Manifest:
        """Move a staged folder in, under the digest of its manifest; `manifest.files` is filled in here.

        The staged folder is gone afterwards. Freezing equal bytes twice is harmless. Raises UnsafeArtifact.
        """

    @property
    def folder(self) -> Path:
        """Where all bundles lie, and nothing else."""

    def path(self, digest: str) -> Path: ...
    def manifest(self, digest: str) -> Manifest: ...

    def verify(self, digest: str) -> None:
        """Raises ChangedBytes, naming the file."""

    def stage(self) -> AbstractContextManager[Path]:
        """A new empty folder on the store's own disk, removed at the end if it is still there."""

    def evidence(self, digest: str) -> Path:
        """Folder beside the bundle for what only the control plane reads, made on demand.

        `holdout.parquet`, `reference.parquet`, `trained_on.npy`, and `evaluation-<id>.npz` (arrays `labels`, `truth`
        and, where there are any, `scores`).
        """

    def keep(self, digest: str, staged: Path) -> Path:
        """Move a staged file to the evidence, under its own name; its place. It is whole there, or not there."""

    def sha256(self, digest: str, name: str) -> str:
        """Of a file of the evidence, in hexadecimal; ChangedBytes when it is not there."""

    def digests(self) -> list[str]: ...

    def stored(self) -> list[Stored]:
        """Everything that lies there, bundles before their evidence."""

    def remove(self, digest: str, name: str = "") -> None:
        """Free a bundle in one step, or one file of its evidence; nothing happens when it is gone."""

    def sweep(self) -> int:
        """Remove what died processes were putting together; how many folders."""


class Documents(Protocol):
    """The folder that control plane and servers share; see `mlplatform.domain.routes`."""

    def folder(self, endpoint: str) -> Path: ...
    def endpoints(self) -> list[str]:
        """Endpoints that were told something."""

    def routes(self, endpoint: str) -> Routes | None: ...

    def publish(self, routes: Routes, model: str = "") -> Routes:
        """Put the models that `routes` names, and `model`, into the endpoint's document, atomically and with the next
        generation number. The other models of the endpoint keep what they have; a `model` that `routes` does not
        name is taken out."""

    def access(self, endpoint: str) -> AccessList | None:
        """The access list that was written last; ValueError when what is there is none."""

    def grant(self, endpoint: str, read: Callable[[], tuple[Grant, ...]]) -> AccessList:
        """Write who may ask its server, with the next number, atomically; nothing when it says so already.

        `read` is called while nobody else can write: who writes last has read last.
        """

    def workers(self, endpoint: str) -> list[WorkerStatus]:
        """Workers whose process is alive."""

    def counted(self, endpoint: str) -> Counted:
        """What its workers have counted, up to about a second ago."""

    def wait_in_effect(self, endpoint: str, generation: int, seconds: float, model: str = "") -> None:
        """Return once every worker has acknowledged, what is said of `model` where one is named; raises
        ServerDidNotFollow."""


class Placements(Protocol):
    """Where endpoints' servers run."""

    def placement(self, endpoint: str) -> Placement | None:
        """None for an endpoint whose server was never started. Raises WorldError where that cannot be told."""

    def place(self, endpoint: str, placement: Placement | None) -> None:
        """Note it, so that it is there after a power cut; None forgets it."""


class Trust(Protocol):
    def inspect(self, folder: Path, allow: Sequence[str]) -> None:
        """Raises UnsafeArtifact for what may not be loaded. `allow`: runtimes permitted by the policy."""
