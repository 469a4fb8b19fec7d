"""Print the exact versions of everything that pyproject.toml asks for, as they are installed here."""

from __future__ import annotations

import tomllib
from importlib.metadata import distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

HEADER = """\
# The exact versions that CI installs; pyproject.toml has the ranges. Written by `make pin`.
# torch is pinned so that no build with gigabytes of CUDA is pulled in."""


def asked_for() -> list[Requirement]:
    project = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text())["project"]
    extras = [line for lines in project["optional-dependencies"].values() for line in lines]
    return [Requirement(line) for line in [*project["dependencies"], *extras]]


def closure(wanted: list[Requirement]) -> dict[str, str]:
    """Name and version of what is wanted and of all that it needs."""
    versions: dict[str, str] = {}
    done: set[tuple[str, str]] = set()
    while wanted:
        requirement = wanted.pop()
        name = canonicalize_name(requirement.name)
        for extra in {"", *requirement.extras} if name != "mlplatform" else ():
            if (name, extra) in done:
                continue
            done.add((name, extra))
            found = distribution(requirement.name)
            versions[name] = found.version.partition("+")[0]
            needs = [Requirement(line) for line in found.requires or []]
            wanted += [need for need in needs if not need.marker or need.marker.evaluate({"extra": extra})]
    return versions


if __name__ == "__main__":
    print(HEADER)
    for name, version in sorted(closure(asked_for()).items()):
        print(f"{name}=={version}")
