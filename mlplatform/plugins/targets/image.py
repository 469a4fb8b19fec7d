"""The image of the model server: its name says what is in it, so one that is there already is used again."""

from __future__ import annotations

import hashlib
import io
import os
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import mlplatform
from mlplatform.errors import WorldError
from mlplatform.plugins.targets import engine

RECIPE = "docker/server.Dockerfile"
REQUIREMENTS = "docker/server-requirements.txt"
NAME = "mlplatform-server"


@dataclass(frozen=True)
class ServerImage:
    """What is built, of what."""

    base: str
    packages: tuple[str, ...] = ()

    @cached_property
    def files(self) -> dict[str, bytes]:
        """The context: names and contents."""
        return dict(_files())

    @property
    def tag(self) -> str:
        """Version of mlplatform and a digest of everything that goes in."""
        sha = hashlib.sha256(repr((self.base, self.packages)).encode())
        for name, content in sorted(self.files.items()):
            sha.update(f"{name}\0{len(content)}\0".encode() + content)
        return f"{NAME}:{mlplatform.__version__}-{sha.hexdigest()[:12]}"

    def ensure(self) -> str:
        """Its tag, once it is there. The package index and the authority of the build are those of our environment
        (PIP_INDEX_URL, PIP_CERT)."""
        tag = self.tag
        if engine.inspect("image", tag) is None:
            arguments = {"BASE_IMAGE": self.base, "VERSION": mlplatform.__version__}
            arguments["EXTRA_PACKAGES"] = " ".join(self.packages)
            arguments["PIP_INDEX_URL"] = os.environ.get("PIP_INDEX_URL", "")
            authority = os.environ.get("PIP_CERT")
            engine.build(tag, self._tar(), RECIPE, arguments, {"ca": Path(authority)} if authority else {})
        return tag

    def _tar(self) -> bytes:
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w") as tar:
            for name, content in self.files.items():
                entry = tarfile.TarInfo(name)
                entry.size = len(content)
                tar.addfile(entry, io.BytesIO(content))
        return packed.getvalue()


def _files() -> Iterator[tuple[str, bytes]]:
    package = Path(mlplatform.__file__).parent
    for path in sorted(package.rglob("*.py")):
        yield f"mlplatform/{path.relative_to(package).as_posix()}", path.read_bytes()
    recipes = _recipes(package)
    for name in (RECIPE, REQUIREMENTS):
        yield name, (recipes / Path(name).name).read_bytes()


def _recipes(package: Path) -> Path:
    """In an installed package `mlplatform/_docker`, in a checkout `docker/` beside the package."""
    for folder in (package / "_docker", package.parent / "docker"):
        if folder.is_dir():
            return folder
    raise WorldError(
        "Install mlplatform again.", what=f"the recipes of the images are missing beside {package}"
    )
