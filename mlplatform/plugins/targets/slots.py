"""Two places of an endpoint's folder in which its servers in containers take turns::

<endpoint>/routes.json, access.json    as ever; the containers see them, read-only
<endpoint>/slots/blue/<endpoint>/      one server's own: lock, status of its workers, capture, labels
<endpoint>/slots/green/<endpoint>/     the other's
<endpoint>/active                      -> the place of the one whose turn it is
<endpoint>/{workers,capture,inbox,server.json} -> active/...
"""

from __future__ import annotations

import os
import shutil
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

TOLD = ("routes.json", "access.json")
"""What the control plane tells the servers."""
KEPT = ("capture", "inbox")
"""What servers leave for the control plane."""
SHOWN = (*KEPT, "workers", "server.json")
OWN = ("open", "container.json", "server.json", "server.lock")


@dataclass(frozen=True)
class Slots:
    folder: Path

    def place(self, colour: str) -> Path:
        # The folder of a server bears the name of its endpoint.
        return self.folder / "slots" / colour / self.folder.name

    @property
    def active(self) -> str | None:
        """Whose turn it is; None before the first."""
        try:
            return Path(os.readlink(self.folder / "active")).parent.name
        except OSError:
            return None

    @property
    def next(self) -> str:
        return "green" if self.active == "blue" else "blue"

    def prepare(self, colour: str, owner: int | None) -> Path:
        """An empty place for a server of user `owner`; what was captured there and not read in is kept."""
        place = self.place(colour)
        shutil.rmtree(place / "workers", ignore_errors=True)
        for name in (*KEPT, "workers"):
            (place / name).mkdir(parents=True, exist_ok=True)
        for name in OWN:
            (place / name).unlink(missing_ok=True)
        for name in TOLD:
            _point(place / name, Path("..", "..", "..", name))
        if owner is not None:
            for path in (place, *(place / name for name in (*KEPT, "workers"))):
                os.chown(path, owner, -1)
        return place

    def activate(self, colour: str) -> None:
        """Show this place in the endpoint's folder; what a server without a container left goes with it."""
        place = self.place(colour)
        _point(self.folder / "active", Path("slots", colour, self.folder.name))
        for name in SHOWN:
            path = self.folder / name
            if path.is_dir() and not path.is_symlink():
                if name in KEPT:
                    _move(path, place / name)
                shutil.rmtree(path)
            _point(path, Path("active", name))

    def collect(self) -> None:
        """Bring what the other server left to where it is read in; to be called once that one has ended."""
        for name in KEPT:
            _move(self.place(self.next) / name, self.folder / name)

    def leave(self) -> None:
        """Back to one folder, for a server without a container; to be called once no container runs."""
        (self.folder / "active").unlink(missing_ok=True)
        for name in SHOWN:
            path = self.folder / name
            if path.is_symlink():
                path.unlink()
        for name in KEPT:
            (self.folder / name).mkdir(exist_ok=True)
            for colour in ("blue", "green"):
                _move(self.place(colour) / name, self.folder / name)


def _point(path: Path, to: Path) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.link")
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(to)
    temporary.replace(path)


def _move(source: Path, target: Path) -> None:
    """Whole files only: a temporary one is of a server that was killed."""
    for path in source.glob("[!.]*") if source.is_dir() else ():
        with suppress(FileNotFoundError):  # read in meanwhile
            path.rename(target / path.name)
