"""Bundles of bytes that are no model, for tests about everything but answers."""

from __future__ import annotations

from mlplatform.domain.bundle import Column, Manifest, Task
from mlplatform.flows.world import World


def freeze_bytes(world: World, model: bytes) -> Manifest:
    """What is said to be an ONNX model of one column and two classes."""
    with world.bundles.stage() as staged:
        (staged / "model").mkdir()
        (staged / "model" / "model.onnx").write_bytes(model)
        (staged / "sample.json").write_text('{"c0": [0.0]}')
        (staged / "reference.json").write_text("{}")
        task = Task("classification", "label", (0, 1), "y")
        manifest = Manifest("onnx", "model/model.onnx", (Column("c0", "double"),), task, {})
        return world.bundles.freeze(staged, manifest)
