"""`POST /labels`: what came true, kept in the inbox until the control plane joins it with captured rows."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from mlplatform.serving.bodies import parse
from mlplatform.serving.capture.recorder import FolderBudget
from mlplatform.serving.files import write_atomically
from mlplatform.serving.ids import uuid7
from mlplatform.serving.problems import Problem, Unavailable
from mlplatform.serving.values import kind_of

INBOX_BYTES = 500_000_000
ID_LIMIT = 200
LABEL_LIMIT = 1000
"""Characters."""


class Inbox:
    """A folder with one file for each request: `{"time_us": ..., "labels": [{"id": ..., "label": ...}]}`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._budget = FolderBudget(folder)

    def put(self, body: bytes) -> int:
        """Keep the labels of a request on disk; how many. Problem for a body that is wrong in any label."""
        labels = check_labels(parse(body))
        content = json.dumps({"time_us": time.time_ns() // 1000, "labels": labels}).encode()
        if not self._budget.allows(len(content), INBOX_BYTES):
            raise Unavailable("the inbox is full: nobody has collected labels for long")
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            write_atomically(self._folder / f"{uuid7()}.json", content, durable=True)
        except OSError as error:
            raise Unavailable(f"the labels could not be kept: {error.strerror}") from error
        self._budget.used += len(content)
        return len(labels)


def check_labels(body: Any) -> list[dict[str, Any]]:
    """The labels of a body `{"labels": [{"id": "<request>/<row>", "label": ...}]}`."""
    if not isinstance(body, dict) or set(body) != {"labels"} or not isinstance(body["labels"], list):
        raise Problem('expected {"labels": [{"id": ..., "label": ...}]}')
    if not body["labels"]:
        raise Problem("field 'labels': the list is empty")
    for i, label in enumerate(body["labels"]):
        _check_label(i, label)
    return body["labels"]


def _check_label(i: int, label: Any) -> None:
    if not isinstance(label, dict) or set(label) != {"id", "label"}:
        raise Problem(f"label {i}: expected an object with 'id' and 'label'")
    key, value = label["id"], label["label"]
    if not isinstance(key, str) or not 0 < len(key) <= ID_LIMIT or not _is_id(key):
        raise Problem(f"label {i}: 'id' is not that of a prediction, <{'Mlplatform-Request-Id'}>/<row>")
    if value is None or isinstance(value, (dict, list)):
        raise Problem(f"label {i}: expected a number, text or boolean, got {kind_of(value)}")
    if isinstance(value, str) and len(value) > LABEL_LIMIT:
        raise Problem(f"label {i}: expected at most {LABEL_LIMIT} characters")
    if type(value) in (int, float) and not abs(value) < 2**63:
        raise Problem(f"label {i}: expected a finite number of at most 64 bits")


def _is_id(key: str) -> bool:
    request, slash, row = key.rpartition("/")
    return bool(request and slash) and row.isascii() and row.isdecimal()
