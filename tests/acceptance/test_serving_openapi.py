"""`/openapi.json` holds: whatever Schemathesis makes of it, good and bad, is answered as the document says."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from mlplatform.domain.bundle import Manifest
from mlplatform.domain.routes import CaptureRule, Route, Routes
from mlplatform.plugins.targets.local import LocalTarget
from mlplatform.ports.extensions import ServerSpec
from mlplatform.store.documents import FolderDocuments
from mlplatform.testing.bundles import make_mixed_bundle, make_onnx_bundle
from tests import served_models

NUMBERS = ("a", "b", "c")


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server with three models: numbers only, every kind of column, and tensors."""
    root = tmp_path_factory.mktemp("served")
    made = {
        "digits": (root / "n", make_onnx_bundle(root / "n", NUMBERS)),
        "trip": (root / "m", make_mixed_bundle(root / "m")),
        "pixels": (root / "p", served_models.pixels(root / "p")),
    }
    documents = FolderDocuments(root / "servers")
    routes = tuple(route(name, *bundle) for name, bundle in made.items())
    documents.publish(Routes("e", 0, routes, capture=CaptureRule(context=("ts",))))
    folder = documents.folder("e")
    url = LocalTarget().apply(ServerSpec("e", folder)).url
    for name in made:  # of several models each is loaded, and described, once it was asked for
        httpx.post(f"{url}/models/{name}/invocations", json={})
    yield url
    LocalTarget().stop(folder)
    assert "Traceback" not in (folder / "server.log").read_text()


def route(name: str, folder: Path, manifest: Manifest) -> Route:
    return Route(name, 1, manifest.digest, str(folder))


def record_of(document: Any, model: str) -> Any:
    """What the document says of a row."""
    operation = document["paths"][f"/models/{model}/invocations"]["post"]
    forms = operation["requestBody"]["content"]["application/json"]["schema"]["anyOf"]
    (records,) = [
        form["properties"]["dataframe_records"] for form in forms if "dataframe_records" in form["properties"]
    ]
    return records["items"]


SETTINGS = """
# A schema cannot say that a tensor has as many values as its shape, that CSV has these columns, or which of two
# models a request without a name will reach.
[[operations]]
include-path-regex = "(/infer|/invocations)$"
checks.positive_data_acceptance.enabled = false
"""


def test_every_operation_answers_as_the_document_says(url: str, tmp_path: Path) -> None:
    (tmp_path / "schemathesis.toml").write_text(SETTINGS)
    command = [sys.executable, "-m", "schemathesis.cli", "run", f"{url}/openapi.json"]
    command += ["--max-examples", "30", "--generation-deterministic", "--no-color"]
    command += ["--phases", "examples,coverage,fuzzing"]
    seen = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=200, check=False)
    assert seen.returncode == 0, seen.stdout + seen.stderr
    assert "Tested: 29" in seen.stdout
    cases = int(re.findall(r"(\d+) generated", seen.stdout)[-1])
    print(f"{cases} requests")
    assert cases > 500


def test_what_the_document_says_of_a_row_is_what_the_server_takes(url: str) -> None:
    document = httpx.get(f"{url}/openapi.json").json()
    assert document == httpx.get(f"{url}/openapi.json").json()
    numbers, mixed, tensors = (record_of(document, name) for name in ("digits", "trip", "pixels"))
    assert sorted(numbers["required"]) == ["a", "b", "c"] and "ts" in numbers["properties"]
    assert sorted(mixed["required"]) == ["age", "amount", "city", "vip"]
    assert mixed["properties"]["age"] == {"type": "integer", "minimum": -(2**63), "maximum": 2**63 - 1}
    assert mixed["properties"]["note"] == {"type": ["string", "null"]}
    image = tensors["properties"]["image"]
    assert (image["minItems"], image["maxItems"], image["items"]["minItems"]) == (2, 2, 3)
    assert image["items"]["items"]["items"] == {"type": "integer", "minimum": 0, "maximum": 255}
    assert len(json.dumps(document)) < 100_000
