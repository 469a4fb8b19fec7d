"""What a server tells of itself, as the parent hands it to its workers on their command line."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from mlplatform.serving import logs


@dataclass(frozen=True)
class Telling:
    """Lines are plain text, as for somebody who looks on, or JSON; `access`: one for each request too."""

    endpoint: str = ""
    style: logs.Style = "text"
    access: bool = False

    @classmethod
    def of(cls, given: argparse.Namespace) -> Telling:
        # In a container the server's folder is not the endpoint's.
        folder: Path = given.keeper or given.folder
        return cls(folder.absolute().name, given.log_style, given.access_log)

    def words(self) -> list[str]:
        """As options of a command."""
        return ["--log-style", self.style, *["--access-log"] * self.access]

    def configure(self, node: str, on_drop: Callable[[], None] = lambda: None) -> None:
        """From now on this process's lines are the endpoint's."""
        logs.configure(self.endpoint, node, self.style, on_drop)


def add_telling(parser: argparse.ArgumentParser) -> None:
    """The options that `Telling.of` reads."""
    parser.add_argument(
        "--log-style", choices=("text", "json"), default="text", help="of the lines on stdout"
    )
    parser.add_argument("--access-log", action="store_true", help="a line for each request")
