from __future__ import annotations

from dataclasses import replace

import pytest

from mlplatform.domain.bundle import Parameter
from mlplatform.domain.policy import Trust
from mlplatform.domain.use import Use
from mlplatform.errors import ChangedBytes, CodeNotAllowed, NotACandidate, Refused, UnsafeArtifact
from mlplatform.flows.register import compress, register
from mlplatform.trust.manifest import Inspector
from tests.unit.flows.worlds import ADA, MODEL, Fakes


def test_a_run_becomes_a_candidate_with_its_bytes_frozen(fakes: Fakes) -> None:
    version = fakes.version("run1")
    assert fakes.places == {1: "CANDIDATE"}
    fakes.bundles.verify(version.digest)
    assert (version.run_id, version.author, version.parent) == ("run1", "grace", None)
    evidence = fakes.bundles.evidence(version.digest)
    assert {p.name for p in evidence.iterdir()} == {"holdout.parquet", "reference.parquet", "trained_on.npy"}


def test_registering_a_run_twice_gives_one_version(fakes: Fakes) -> None:
    first = fakes.version("run1")
    assert register(fakes.world, MODEL, "run1", ADA) == first
    assert fakes.registry.outside(MODEL).versions == {1}
    assert fakes.kinds == ["registered"]


def test_a_run_that_lacks_a_part_leaves_no_version_and_nothing_staged(fakes: Fakes) -> None:
    candidate = fakes.candidate("run1")
    candidate.holdout.unlink()
    fakes.runs.add(candidate)
    with pytest.raises(NotACandidate, match="holdout missing"):
        register(fakes.world, MODEL, "run1", ADA)
    assert fakes.ledger.versions(MODEL) == []
    assert fakes.registry.outside(MODEL).versions == frozenset()
    assert list((fakes.folder / "home" / "staging").iterdir()) == []


def test_a_link_in_what_was_logged_is_refused(fakes: Fakes) -> None:
    candidate = fakes.candidate("run1")
    (candidate.model_folder / "weights").symlink_to("/etc/passwd")
    fakes.runs.add(candidate)
    with pytest.raises(UnsafeArtifact, match="link"):
        register(fakes.world, MODEL, "run1", ADA)
    assert fakes.ledger.versions(MODEL) == []


def test_a_compressed_child_names_parent_and_technique(fakes: Fakes) -> None:
    parent = fakes.version("run1")
    child = compress(fakes.world, parent, [Use("copying"), Use("copying")], ADA)
    assert (child.number, child.parent, child.technique) == (2, 1, "copying+copying")
    assert (fakes.bundles.path(child.digest) / "model" / "model.onnx").read_text() == "run1!!"
    assert fakes.ledger.entries(MODEL)[-1].draft.data["notes"] == {"copying": {"saved": 0}}
    assert compress(fakes.world, parent, [Use("copying"), Use("copying")], ADA) == child
    assert fakes.registry.outside(MODEL).versions == {1, 2}


def test_a_technique_is_not_given_what_it_cannot_read(fakes: Fakes) -> None:
    candidate = fakes.candidate("run1")
    fakes.runs.add(type(candidate)(**{**vars(candidate), "runtime": "torch"}))
    parent = register(fakes.world, MODEL, "run1", ADA)
    with pytest.raises(Refused, match="reads onnx, not torch"):
        compress(fakes.world, parent, [Use("copying")], ADA)
    assert fakes.places == {1: "CANDIDATE"}


def test_a_changed_parent_is_not_compressed(fakes: Fakes) -> None:
    parent = fakes.version("run1")
    name = fakes.spoil(parent)
    with pytest.raises(ChangedBytes, match=name):
        compress(fakes.world, parent, [Use("copying")], ADA)
    assert fakes.world.intents.left() == []


def test_a_model_that_runs_code_is_registered_only_where_the_policy_lets_it(fakes: Fakes) -> None:
    candidate = fakes.candidate("run1")
    fakes.runs.add(replace(candidate, runtime="pyfunc"))
    with pytest.raises(
        CodeNotAllowed, match=r"the model of run run1 runs code of its own \(runtime pyfunc\)"
    ) as caught:
        register(fakes.world, MODEL, "run1", ADA)
    assert "code_models = true" in caught.value.next_step
    assert fakes.ledger.versions(MODEL) == [] and fakes.world.intents.left() == []
    allowed = Trust(code_models=True, answer_seconds=5.0, memory_mb=2000)
    version = register(fakes.world, MODEL, "run1", ADA, trust=allowed)
    options = fakes.bundles.manifest(version.digest).options
    assert (options["answer_seconds"], options["memory_mb"]) == (5.0, 2000)


def test_a_model_with_columns_that_are_not_served_is_not_registered(fakes: Fakes) -> None:
    candidate = fakes.candidate("run1")
    (candidate.model_folder / "MLmodel").write_text(
        "flavors: {python_function: {loader_module: mlflow.pyfunc.model}}\n"
        """signature: {inputs: '[{"name": "tags", "type": "array", "items": {"type": "long"}}]'}\n"""
    )
    fakes.runs.add(replace(candidate, runtime="pyfunc"))
    world = replace(fakes.world, trust=Inspector())
    with pytest.raises(Refused, match=r"column tags of the model's signature .* Array\(long\)") as caught:
        register(world, MODEL, "run1", ADA, trust=Trust(code_models=True))
    assert "TensorSpec" in caught.value.next_step
    assert fakes.ledger.versions(MODEL) == [] and fakes.world.intents.left() == []


def test_a_versions_manifest_keeps_the_parameters_of_the_signature(fakes: Fakes) -> None:
    params = (Parameter("k", "long", 3), Parameter("words", "string", ("a",), (-1,)))
    fakes.runs.add(replace(fakes.candidate("run1"), runtime="pyfunc", params=params))
    version = register(fakes.world, MODEL, "run1", ADA, trust=Trust(code_models=True))
    assert fakes.bundles.manifest(version.digest).params == params
