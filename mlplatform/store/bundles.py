"""Bundles in a local folder: immutable, under the digest of their manifest, whole or not there at all.

<root>/bundles/<first two digits>/<digest>/    manifest.json, model/, sample.json, reference.json; read-only
<root>/evidence/<digest>/                      holdout, reference data, answers: what only the control plane reads
<root>/staging/<machine>-<pid>-<random>/       what a living process is putting together, or taking away
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from mlplatform.domain.bundle import FileEntry, Manifest
from mlplatform.errors import ChangedBytes, UnknownName, UnsafeArtifact
from mlplatform.ports.store import Stored

MANIFEST = "manifest.json"
ABROAD = timedelta(days=30)
"""What another machine stages is left alone for so long: nobody here can tell whether its process lives, and trains."""
_CHUNK = 1 << 20


class FolderBundles:
    """Port Bundles. `root` is made on first use; one root may be used by several processes."""

    def __init__(self, root: Path) -> None:
        self.root = root.resolve()

    @property
    def folder(self) -> Path:
        """Where all bundles lie."""
        return self.root / "bundles"

    def freeze(self, staged: Path, manifest: Manifest) -> Manifest:
        """Hash every file, write the manifest, make all of it durable, rename it to its digest.

        The staged folder is gone afterwards. Freezing equal bytes twice is harmless. Raises UnsafeArtifact.
        """
        (staged / MANIFEST).unlink(missing_ok=True)
        files = {path.relative_to(staged).as_posix(): _seal(path) for path in _files(staged)}
        if not any(
            name == manifest.model_path or name.startswith(f"{manifest.model_path}/") for name in files
        ):
            raise UnsafeArtifact(path=manifest.model_path, why="the bundle has no such file or folder")
        frozen = replace(manifest, files=dict(sorted(files.items())))
        (staged / MANIFEST).write_bytes(frozen.encode())
        _seal(staged / MANIFEST)
        target = self._place(frozen.digest)
        for parent, _, _ in os.walk(staged, topdown=False):
            _sync(Path(parent))
        if target.exists():
            if self._holds(frozen.digest):
                _remove(staged)
                return frozen
            self._set_aside(target)  # these are the right bytes, those are not
        target.parent.mkdir(parents=True, exist_ok=True)
        staged.chmod(0o755)  # a server may run as another user; the files are read-only already
        try:
            staged.rename(target)
        except OSError:
            if not target.exists():
                raise
            _remove(staged)  # another process froze equal bytes at the same moment
        _sync(target.parent)
        return frozen

    def path(self, digest: str) -> Path:
        """The bundle's folder; UnknownName when there is none."""
        folder = self._place(digest)
        if not folder.is_dir():
            raise UnknownName("bundle", digest, hint="Was the bundle folder deleted? Register the run again.")
        return folder

    def manifest(self, digest: str) -> Manifest:
        """Raises ChangedBytes when the manifest is not the one that has this digest."""
        raw = self._read_manifest(digest)
        try:
            return Manifest.decode(raw)
        except ValueError as error:
            raise ChangedBytes(what=_name(digest), path=MANIFEST, change="is not a manifest") from error

    def verify(self, digest: str) -> None:
        """Read every byte; ChangedBytes names the first file that is changed, missing or new."""
        manifest, folder = self.manifest(digest), self.path(digest)
        there = {path.relative_to(folder).as_posix(): path for path in _entries(folder)}
        there.pop(MANIFEST, None)
        for name, entry in manifest.files.items():
            path = there.pop(name, None)
            if path is None:
                raise ChangedBytes(what=_name(digest), path=name, change="is missing")
            if path.is_symlink() or not path.is_file() or _hash(path) != entry:
                raise ChangedBytes(what=_name(digest), path=name, change="was changed")
        for name in there:
            raise ChangedBytes(what=_name(digest), path=name, change="was added")

    @contextmanager
    def stage(self) -> Iterator[Path]:
        """A new empty folder on the store's own disk, removed at the end if it is still there."""
        parent = self.root / "staging"
        parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=f"{os.uname().nodename}-{os.getpid()}-", dir=parent))
        try:
            yield folder
        finally:
            _remove(folder)

    def evidence(self, digest: str) -> Path:
        """Folder beside the bundle, made on demand."""
        folder = self.root / "evidence" / _checked(digest)
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def keep(self, digest: str, staged: Path) -> Path:
        """Move a staged file to the evidence, under its own name; its place. It is whole there, or not there."""
        _sync(staged)
        place = staged.replace(self.evidence(digest) / staged.name)
        _sync(place.parent)
        return place

    def sha256(self, digest: str, name: str) -> str:
        """Of a file of the evidence, in hexadecimal; ChangedBytes when it is not there, or a link."""
        path = self.root / "evidence" / _checked(digest) / Path(name).name
        if path.is_symlink() or not path.is_file():
            raise ChangedBytes(what=f"the evidence of {_name(digest)}", path=name, change="is missing")
        return _hash(path).sha256

    def digests(self) -> list[str]:
        """Of every bundle that is there, sorted."""
        return sorted(p.name for p in (self.root / "bundles").glob("??/*") if _is_digest(p.name))

    def stored(self) -> list[Stored]:
        """Every bundle, then every file of evidence."""
        bundles = [(p.name, p) for p in sorted((self.root / "bundles").glob("??/*")) if _is_digest(p.name)]
        files = [p for p in sorted((self.root / "evidence").glob("*/*")) if _is_digest(p.parent.name)]
        return [
            *(Stored(digest, "", _size(path), _written(path)) for digest, path in bundles),
            *(Stored(p.parent.name, p.name, _size(p), _written(p)) for p in files),
        ]

    def remove(self, digest: str, name: str = "") -> None:
        """Free a bundle in one step, or one file of its evidence; nothing happens when it is gone."""
        if not name:
            folder = self._place(digest)
            if folder.exists():
                self._set_aside(folder)
            return
        file = self.root / "evidence" / _checked(digest) / Path(name).name
        file.unlink(missing_ok=True)
        with suppress(OSError):
            file.parent.rmdir()  # the last one takes the folder with it

    def sweep(self) -> int:
        """Remove what died processes left in staging; the number of folders. Call it at start."""
        left = [p for p in (self.root / "staging").glob("*-*-*") if _is_left(p)]
        for folder in left:
            _remove(folder)
        return len(left)

    def _holds(self, digest: str) -> bool:
        try:
            self.verify(digest)
        except ChangedBytes:
            return False
        return True

    def _set_aside(self, folder: Path) -> None:
        """Out of the way in one step; `sweep` or the end of `stage` removes it."""
        with self.stage() as aside:
            folder.rename(aside / "damaged")

    def _place(self, digest: str) -> Path:
        return self.folder / _checked(digest)[:2] / digest

    def _read_manifest(self, digest: str) -> bytes:
        path = self.path(digest) / MANIFEST
        if not path.is_file() or path.is_symlink():
            raise ChangedBytes(what=_name(digest), path=MANIFEST, change="is missing")
        raw = path.read_bytes()
        if hashlib.sha256(raw).hexdigest() != digest:
            raise ChangedBytes(what=_name(digest), path=MANIFEST, change="was changed")
        return raw


def _checked(digest: str) -> str:
    if not _is_digest(digest):
        raise UnknownName("bundle", digest)
    return digest


def _is_digest(text: str) -> bool:
    return bool(re.fullmatch(r"[0-9a-f]{64}", text))


def _name(digest: str) -> str:
    return f"bundle {digest[:12]}"


def _entries(folder: Path) -> Iterator[Path]:
    """Everything that is not a folder, links included."""
    for parent, folders, names in os.walk(folder, followlinks=False):
        yield from (Path(parent) / n for n in names)
        yield from (path for n in folders if (path := Path(parent) / n).is_symlink())


def _files(folder: Path) -> list[Path]:
    """Regular files; UnsafeArtifact for anything that could change or lead elsewhere after it was hashed."""
    found = sorted(_entries(folder))
    for path in found:
        facts = path.lstat()
        if not stat.S_ISREG(facts.st_mode):
            raise UnsafeArtifact(path=path.relative_to(folder).as_posix(), why="it is a link or a device")
        if facts.st_nlink > 1:
            raise UnsafeArtifact(
                path=path.relative_to(folder).as_posix(), why="it has another name elsewhere"
            )
    return found


def _seal(path: Path) -> FileEntry:
    """Hash, make read-only and durable."""
    entry = _hash(path)
    path.chmod(0o444)
    _sync(path)
    return entry


def _hash(path: Path) -> FileEntry:
    sha, size = hashlib.sha256(), 0
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            sha.update(chunk)
            size += len(chunk)
    return FileEntry(sha.hexdigest(), size)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _size(path: Path) -> int:
    return sum(file.lstat().st_size for file in ([path] if path.is_file() else _entries(path)))


def _written(path: Path) -> datetime:
    return datetime.fromtimestamp(path.lstat().st_mtime, UTC)


def _remove(folder: Path) -> None:
    """Also folders that nobody may enter. Nothing happens when it is gone, or somebody else is at it."""
    with suppress(FileNotFoundError):
        folder.chmod(0o755)
        for parent, folders, _ in os.walk(folder):
            for path in (Path(parent) / name for name in folders):
                if not path.is_symlink():
                    path.chmod(0o755)
        shutil.rmtree(folder)


def _is_left(staged: Path) -> bool:
    """Whether nobody works in it: its process is gone, or it is of another machine and old."""
    machine, pid, _ = staged.name.rsplit("-", 2)
    if machine == os.uname().nodename:
        return not _alive(pid)
    try:
        return datetime.now(UTC) - _written(staged) > ABROAD
    except FileNotFoundError:  # its process has ended meanwhile
        return False


def _alive(pid: str) -> bool:
    try:
        os.kill(int(pid), 0)
    except (ProcessLookupError, ValueError):
        return False
    except PermissionError:
        return True
    return True
