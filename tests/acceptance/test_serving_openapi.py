"""`/openapi.json` holds: whatever Schemathesis makes of it, good and bad, is answered as the document says."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from mlplatform.domain.bundle import Manifest
from mlplatform.domain.routes import CaptureRule, Route, Routes
from mlplatform.plugins.targets.local import LocalTarget
from mlplatform.ports.extensions import ServerSpec
from mlplatform.store.documents import FolderDocuments
from mlplatform.testing.bundles import make_mixed_bundle, make_onnx_bundle

NUMBERS = ("a", "b", "c")


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server with two models: numbers only, and every kind of column."""
    root = tmp_path_factory.mktemp("served")
    made = {
        "digits": (root / "n", make_onnx_bundle(root / "n", NUMBERS)),
        "trip": (root / "m", make_mixed_bundle(root / "m")),
    }
    documents = FolderDocuments(root / "servers")
    routes = tuple(route(name, *bundle) for name, bundle in made.items())
    documents.publish(Routes("e", 0, routes, capture=CaptureRule(context=("ts",))))
    folder = documents.folder("e")
    yield LocalTarget().apply(ServerSpec("e", folder)).url
    LocalTarget().stop(folder)
    assert "Traceback" not in (folder / "server.log").read_text()


def route(name: str, folder: Path, manifest: Manifest) -> Route:
    return Route(name, 1, manifest.digest, str(folder), 0.5)


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
    command += ["--max-examples", "40", "--generation-deterministic", "--no-color"]
    seen = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=200, check=False)
    assert seen.returncode == 0, seen.stdout + seen.stderr
    assert "Tested: 21" in seen.stdout
    cases = int(re.findall(r"(\d+) generated", seen.stdout)[-1])
    print(f"{cases} requests")
    assert cases > 500


def test_what_the_document_says_of_a_row_is_what_the_server_takes(url: str) -> None:
    document = httpx.get(f"{url}/openapi.json").json()
    assert document == httpx.get(f"{url}/openapi.json").json()
    content = document["paths"]["/invocations"]["post"]["requestBody"]["content"]["application/json"]
    records = [
        form["properties"]["dataframe_records"]["items"]
        for form in content["schema"]["anyOf"]
        if "dataframe_records" in form["properties"]
    ]
    assert [sorted(r["required"]) for r in records] == [["a", "b", "c"], ["age", "amount", "city", "vip"]]
    assert records[1]["properties"]["age"] == {"type": "integer", "minimum": -(2**63), "maximum": 2**63 - 1}
    assert records[1]["properties"]["note"] == {"type": ["string", "null"]}
    assert "ts" in records[0]["properties"]
    assert len(json.dumps(document)) < 100_000
