"""Where endpoints' servers run, a file in the folder of each: port `Placements`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from mlplatform.domain.placement import Placement
from mlplatform.errors import WorldError
from mlplatform.store.documents import replace_durably

FILE = "target.json"


class FolderPlacements:
    """`folder`: from an endpoint's name to its folder (port `Documents`)."""

    def __init__(self, folder: Callable[[str], Path]) -> None:
        self._folder = folder

    def placement(self, endpoint: str) -> Placement | None:
        """Raises WorldError for a file that is damaged: a guess could start a second server."""
        path = self._folder(endpoint) / FILE
        try:
            return Placement.decode(json.loads(path.read_bytes()))
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            hint = (
                "Stop the server of the endpoint, remove the file, then `mlplatform deploy --target` again."
            )
            raise WorldError(hint, what=f"{path} does not say where the server runs: {error}") from error

    def place(self, endpoint: str, placement: Placement | None) -> None:
        """Durably; None forgets it."""
        path = self._folder(endpoint) / FILE
        if placement is None:
            path.unlink(missing_ok=True)
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_durably(path, json.dumps(placement.encode(), indent=2).encode())
