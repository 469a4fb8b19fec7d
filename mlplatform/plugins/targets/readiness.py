"""Whether a server in a container is ready to take part, by the files that its workers write."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mlplatform.domain.routes import Routes, WorkerStatus
from mlplatform.ports.extensions import ServerSpec


@dataclass(frozen=True)
class Why:
    """Why it is not ready yet, or, `final`, never will be."""

    text: str
    final: bool = False


def why_not(desired: ServerSpec, place: Path, before: Path | None) -> Why | None:
    """None once every worker serves what the newest document says, but for models that the server before could not
    serve either."""
    workers = _workers(place)
    if len(workers) < desired.workers:
        return Why(f"{len(workers)} of {desired.workers} workers have started")
    generation = _generation(desired.folder)
    tolerated = {model for status in _workers(before) for model in status.behind or {}} if before else set()
    for status in workers:
        if status.serves() >= generation:
            continue
        why, broken = status.refuses(generation), set(status.behind or {})
        if why and not (broken and broken <= tolerated):
            return Why(why, final=True)
        if not why:
            return Why(f"a worker serves generation {status.serves()}, not {generation}")
    return None


def why_not_joined(desired: ServerSpec, place: Path) -> Why | None:
    """None once every worker takes connections from the endpoint's port."""
    joined = len(list((place / "workers").glob("*.joined")))
    return (
        Why(f"{joined} of {desired.workers} workers answer on the port") if joined < desired.workers else None
    )


def _workers(place: Path) -> list[WorkerStatus]:
    found = []
    for path in (place / "workers").glob("*.json"):
        try:
            found.append(WorkerStatus.decode(path.read_bytes()))
        except (OSError, ValueError):  # not written yet, or gone
            continue
    return found


def _generation(folder: Path) -> int:
    """0 where nothing is to be served yet."""
    try:
        return Routes.decode((folder / "routes.json").read_bytes()).generation
    except (FileNotFoundError, ValueError):  # one that is damaged is replaced by the next
        return 0
