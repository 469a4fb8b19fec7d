"""Print the exact versions of what pyproject.toml asks for, as they are installed here.

`pin.py` prints all of it, `pin.py server` and `pin.py control` what an image holds (docker/*.Dockerfile).
"""

from __future__ import annotations

import sys
import tomllib
from importlib.metadata import distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

HEADER = """\
# The exact versions that CI installs; pyproject.toml has the ranges. Written by `make pin`.
# torch is pinned so that no build with gigabytes of CUDA is pulled in."""


IMAGE = "# What docker/{0}.Dockerfile installs. Written by `make pin`."


def asked_for(image: str = "") -> list[Requirement]:
    """What pyproject.toml lists: everything, or what one image needs."""
    project = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text())["project"]
    needed, extras = project["dependencies"], project["optional-dependencies"]
    lines = {
        "": [*needed, *(line for lines in extras.values() for line in lines)],
        "server": extras["server"],
        # torch only where the image's builder asks for it
        "control": [*(line for line in needed if not line.startswith("torch")), *extras["postgres"]],
    }[image]
    return [Requirement(line) for line in lines]


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
    image = sys.argv[1] if len(sys.argv) > 1 else ""
    print(IMAGE.format(image) if image else HEADER)
    for name, version in sorted(closure(asked_for(image)).items()):
        print(f"{name}=={version}")
