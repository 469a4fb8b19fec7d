"""Pictures of clothes from a training script into production and back: a convolutional network that takes tensors is
registered, gated, served with binary tensors, captured, labelled, and its successor judged on the rows that were seen.
"""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, timedelta
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import tritonclient.http as triton

import mlplatform
from mlplatform.control import Platform
from mlplatform.domain.verdict import Verdict
from tests.acceptance.stories import Stream
from tests.mlflow_stores import fresh_store

pytestmark = pytest.mark.data
POLICY = """
model  = "clothes"
ladder = ["staging", "production"]

[data]
target = "kind"
evaluate = { use = "labelled_window", min_rows = 200, last = "7d" }

[stages.staging]
gates = [
  { use = "metric", name = "accuracy", at_least = 0.7 },
  { use = "serving_check" },
  { use = "signature" },
  { use = "leak", at_most = 0.01 },
]

[stages.production]
endpoint = { name = "clothes" }
gates = [{ use = "no_regression", name = "accuracy", margin = 0.05 }]

[watch]
window = "1h"
min_rows = 50
metrics = [{ use = "drift" }, { use = "quality", name = "accuracy", at_least = 0.5, min_labels = 50 }]
"""
TRAINED, HELD, LIVE = slice(0, 3000), slice(3000, 3600), slice(0, 300)


@dataclass(frozen=True)
class Clothes:
    images: np.ndarray
    """(n, 1, 28, 28) from 0 to 1, in single precision."""
    kinds: np.ndarray


def read(folder: Path, part: str, rows: int) -> Clothes:
    images, labels = (
        np.frombuffer(gzip.decompress((folder / f"{part}-{name}-ubyte.gz").read_bytes()), np.uint8)
        for name in ("images-idx3", "labels-idx1")
    )
    pictures = images[16:].reshape(-1, 1, 28, 28)[:rows].astype(np.float32) / 255
    return Clothes(pictures, labels[8:][:rows].astype(np.int64))


def trained(clothes: Clothes, channels: int, seed: int) -> Any:
    import torch

    torch.manual_seed(seed)
    net = torch.nn.Sequential(
        torch.nn.Conv2d(1, channels, 3, stride=2),
        torch.nn.ReLU(),
        torch.nn.Flatten(),
        torch.nn.Linear(channels * 13 * 13, 10),
    )
    adam = torch.optim.Adam(net.parameters(), 2e-3)
    X, y = (torch.from_numpy(values[TRAINED]) for values in (clothes.images, clothes.kinds))
    for _ in range(4):
        for part in torch.randperm(len(X)).split(64):
            adam.zero_grad()
            torch.nn.functional.cross_entropy(net(X[part]), y[part]).backward()
            adam.step()
    return net


def logged(net: Any, clothes: Clothes) -> str:
    return mlplatform.log_candidate(
        net,
        holdout=(clothes.images[HELD], clothes.kinds[HELD]),
        reference=(clothes.images[TRAINED], clothes.kinds[TRAINED]),
        target="kind",
        classes=range(10),
    )


@pytest.fixture(scope="module")
def clothes(data: Path) -> Clothes:
    return read(data / "fashion_mnist", "train", 3600)


@pytest.fixture(scope="module")
def unseen(data: Path) -> Clothes:
    return read(data / "fashion_mnist", "t10k", 400)


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory, empty_mlflow: Path) -> Iterator[Platform]:
    folder = tmp_path_factory.mktemp("clothes")
    (folder / "mlplatform.toml").write_text("")
    (folder / "policy.toml").write_text(POLICY)
    fresh_store(empty_mlflow, folder / ".mlplatform")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        platform = Platform.open(folder)
        yield platform
        for state in platform.endpoints():
            platform.undeploy(state.model, state.stage)


def asked(url: str, name: str, images: np.ndarray) -> tuple[list[str], np.ndarray]:
    """By V2 with binary tensors: the rows' ids, and the answers."""
    ids, answers = [], []
    with triton.InferenceServerClient(url.removeprefix("http://"), network_timeout=60) as client:
        for start in range(0, len(images), 50):
            part = images[start : start + 50]
            given = triton.InferInput(name, list(part.shape), "FP32")
            given.set_data_from_numpy(part)
            answer = client.infer("clothes", [given])
            ids += [f"{answer.get_response()['id']}/{row}" for row in range(len(part))]
            answers.append(answer.as_numpy("predictions"))
    return ids, np.concatenate(answers)


def test_a_network_over_pictures_lives_the_whole_life_of_a_model(
    platform: Platform, clothes: Clothes, unseen: Clothes
) -> None:
    import torch

    net = trained(clothes, channels=8, seed=0)
    first = platform.register("clothes", logged(net, clothes))
    (image,) = platform.world.bundles.manifest(first.digest).inputs
    assert (image.dtype, image.shape) == ("float", (1, 28, 28))
    for stage in ("staging", "production"):
        outcome = platform.promote(first.ref, stage, "the first")
        assert outcome.status == "done", outcome
    (state,) = platform.endpoints()

    # It answers what the network answers, by both protocols.
    sent = unseen.images[LIVE]
    ids, answers = asked(state.server.url, image.name, sent)
    with torch.no_grad():
        np.testing.assert_allclose(answers, net.eval()(torch.from_numpy(sent)).numpy(), rtol=1e-3, atol=1e-4)
    plain = httpx.post(f"{state.server.url}/invocations", json={"inputs": sent[:2].tolist()}, timeout=60)
    np.testing.assert_allclose(plain.json()["predictions"], answers[:2], rtol=1e-3, atol=1e-4)

    # What was sent is in the window, with its truth.
    stream = Stream(platform, "clothes")
    stream.sent = len(sent) + 2
    more = stream.send({image.name: unseen.images[300:400]})
    platform.label("clothes", np.array(ids, object), unseen.kinds[LIVE])
    platform.label("clothes", more["id"], unseen.kinds[300:400])
    seen = platform.world.observations.read("clothes", labelled=True)
    pictures = dict(zip(seen.ids.tolist(), seen.columns[image.name], strict=True))
    np.testing.assert_array_equal(np.stack([pictures[name] for name in ids]), sent)

    # A successor is judged on these rows; the live version answers them again.
    second = platform.register("clothes", logged(trained(clothes, channels=16, seed=1), clothes))
    assert platform.promote(second.ref, "staging", "judged").status == "done"
    outcome = platform.check(second.ref, "production")
    assert outcome.status == "done", outcome
    evaluation = platform.world.evaluations.get(outcome.evaluation_id)
    assert evaluation is not None
    assert evaluation.rows == 400
    assert evaluation.details["source"].startswith("400 labelled rows")
    assert {finding.verdict for finding in outcome.findings} == {Verdict.PASS}

    # Quality is watched by the labels, drift by the answers: no profile is made of pictures.
    until = seen.times.max().item().replace(tzinfo=UTC) + timedelta(hours=2)
    ((window, _), *_) = platform.monitor("clothes", until).watched.windows
    assert (window.rows, window.labelled) == (402, 400)
    assert [signal.metric for signal in window.signals] == ["drift", "quality"]


def test_a_picture_of_another_shape_is_refused_with_its_name(platform: Platform) -> None:
    (state,) = platform.endpoints()
    answer = httpx.post(f"{state.server.url}/invocations", json={"inputs": np.zeros((1, 28, 28)).tolist()})
    assert answer.status_code == 400
    assert "expected a tensor of shape [-1, 1, 28, 28]" in answer.json()["message"]
