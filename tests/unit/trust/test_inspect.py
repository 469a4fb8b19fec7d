"""What may not be loaded is refused before anything of it is loaded; ordinary models pass."""

from __future__ import annotations

import io
import json
import os
import pickle
import subprocess
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlplatform.errors import Refused, UnsafeArtifact
from mlplatform.trust.manifest import Inspector

MLMODEL = """
artifact_path: /store/models/m-1/artifacts
flavors:
  python_function:
    env: {conda: conda.yaml, virtualenv: python_env.yaml}
    loader_module: mlflow.sklearn
    model_path: model.skops
  sklearn:
    code: null
    pickled_model: model.skops
    serialization_format: skops
    sklearn_version: 1.9.1
    skops_trusted_types: [os.system]
mlflow_version: 3.17.2
"""


class Evil:
    """Leaves a mark when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.mark}",)


def skops_file(schema: dict[str, Any], **members: bytes) -> bytes:
    raw = io.BytesIO()
    with zipfile.ZipFile(raw, "w") as archive:
        archive.writestr("schema.json", json.dumps(schema))
        for name, content in members.items():
            archive.writestr(name.replace("_npy", ".npy"), content)
    return raw.getvalue()


def node(module: str, name: str, builder: str = "ObjectNode", **more: Any) -> dict[str, Any]:
    return {"__class__": name, "__module__": module, "__loader__": builder, "__id__": 1, **more}


def npy(values: Any, allow_pickle: bool = False) -> bytes:
    raw = io.BytesIO()
    np.save(raw, values, allow_pickle=allow_pickle)
    return raw.getvalue()


GOOD = skops_file(node("sklearn.linear_model._logistic", "LogisticRegression"), coef_npy=npy(np.zeros(3)))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    model = tmp_path / "model"
    model.mkdir()
    (model / "MLmodel").write_text(MLMODEL)
    (model / "model.skops").write_bytes(GOOD)
    (model / "requirements.txt").write_text("scikit-learn==1.9.1\nskops\nnumpy>=1.26,<3  # why\n")
    (model / "input_example.json").write_text('{"columns": ["a"], "data": [[1]]}')
    return model


def refused(folder: Path, why: str, allow: tuple[str, ...] = ("sklearn",)) -> UnsafeArtifact:
    with pytest.raises(UnsafeArtifact, match=why) as caught:
        Inspector().inspect(folder, allow)
    return caught.value


def test_an_ordinary_model_folder_passes(folder: Path) -> None:
    Inspector().inspect(folder, ("sklearn",))


def test_a_pickle_that_runs_a_command_is_refused_and_not_run(folder: Path, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    for protocol in range(6):
        (folder / "model.skops").write_bytes(pickle.dumps(Evil(mark), protocol=protocol))
        refused(folder, "pickle|not known")
    assert not mark.exists()


@pytest.mark.parametrize("name", ["notes.txt", "weights.json", "model.bin", "MLmodel.txt"])
def test_a_pickle_under_any_name_is_refused(folder: Path, tmp_path: Path, name: str) -> None:
    for protocol in (0, 2, 4):
        (folder / name).write_bytes(pickle.dumps(Evil(tmp_path / "mark"), protocol=protocol))
        assert name in str(refused(folder, "pickle|not known|not readable"))


def test_a_link_out_of_the_folder_is_refused(folder: Path) -> None:
    (folder / "users.txt").symlink_to("/etc/passwd")
    assert "users.txt" in str(refused(folder, "symbolic link"))


def test_a_linked_folder_is_refused(folder: Path, tmp_path: Path) -> None:
    (folder / "data").symlink_to(tmp_path)
    refused(folder, "symbolic link")


def test_a_hard_link_is_refused(folder: Path, tmp_path: Path) -> None:
    os.link(folder / "model.skops", tmp_path / "other")
    refused(folder, "hard link")


def test_a_pipe_is_refused(folder: Path) -> None:
    os.mkfifo(folder / "pipe")
    refused(folder, "neither a file nor a folder")


def test_a_file_that_runs_as_another_user_is_refused(folder: Path) -> None:
    (folder / "model.skops").chmod(0o4755)
    refused(folder, "another user")


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        ("loader_module: mlflow.sklearn", "loader_module: evil.loader", "not on the list"),
        ("model_path: model.skops", "model_path: ../../other/model.skops", "outside the folder"),
        ("model_path: model.skops", "model_path: /tmp/model.skops", "outside the folder"),
        ("model_path: model.skops", "model_path: http://host/model", "outside the folder"),
        ("code: null", "code: code", "code of its own"),
        ("loader_module: mlflow.sklearn", "model_code_path: agent.py", "code of its own"),
        ("serialization_format: skops", "serialization_format: cloudpickle", "saved as"),
        ("  sklearn:", "  spark:", "not known"),
        ("mlflow_version: 3.17.2", "a: &x [1]\nb: *x", "anchors"),
        ("mlflow_version: 3.17.2", "a: !!python/object/apply:os.system ['true']", "not readable YAML"),
        ("flavors:", "tastes:", "no flavors"),
    ],
)
def test_an_mlmodel_that_leads_elsewhere_is_refused(folder: Path, old: str, new: str, why: str) -> None:
    assert old in MLMODEL
    (folder / "MLmodel").write_text(MLMODEL.replace(old, new, 1))
    refused(folder, why)


def test_a_folder_of_code_is_refused(folder: Path) -> None:
    (folder / "code").mkdir()
    refused(folder, "code of its own")


def test_a_script_is_refused(folder: Path) -> None:
    (folder / "setup.py").write_text("print('hello')")
    refused(folder, "text of a kind")


@pytest.mark.parametrize(
    "line", ["http://host/evil.whl", "-r other.txt", "pkg @ file:///tmp/x", "--extra-index-url http://host"]
)
def test_requirements_may_only_name_packages(folder: Path, line: str) -> None:
    (folder / "requirements.txt").write_text(f"numpy\n{line}\n")
    refused(folder, "not a plain requirement")


@pytest.mark.parametrize(
    ("schema", "why"),
    [
        (node("os", "system", "FunctionNode"), "os.system"),
        (node("builtins", "eval", "FunctionNode"), "builtins.eval"),
        (node("sklearn.linear_model._logistic", "logistic_regression_path"), "not on the list"),
        (node("builtins", "dict", "DictNode", content=[node("subprocess", "Popen", "TypeNode")]), "Popen"),
        (node("sklearn.tree._tree", "Tree", "MethodNode"), "MethodNode"),
        (node("operator", "attrgetter", "OperatorFuncNode"), "OperatorFuncNode"),
        ({"__module__": "os", "__class__": "system"}, "not on the list"),
    ],
)
def test_skops_names_that_are_not_on_the_list_are_refused(
    folder: Path, schema: dict[str, Any], why: str
) -> None:
    (folder / "model.skops").write_bytes(skops_file(schema))
    refused(folder, why)


def test_pickled_arrays_inside_a_skops_file_are_refused(folder: Path, tmp_path: Path) -> None:
    objects = npy(np.array([Evil(tmp_path / "mark")], dtype=object), allow_pickle=True)
    (folder / "model.skops").write_bytes(skops_file(node("numpy", "ndarray", "NdArrayNode"), a_npy=objects))
    refused(folder, "pickled objects")


def archive(names: dict[str, bytes]) -> bytes:
    raw = io.BytesIO()
    with zipfile.ZipFile(raw, "w", zipfile.ZIP_DEFLATED) as out:
        for name, content in names.items():
            out.writestr(name, content)
    return raw.getvalue()


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (archive({"schema.json": b"{}", "../../x.npy": npy(np.zeros(1))}), "leaves it"),
        (archive({"schema.json": b"{}", "big.npy": b"\0" * 120_000_000}), "far more"),
        (archive({"schema.json": b"{}", "x.so": b"ELF"}), "unknown kind"),
        (archive({"hello.txt": b"hi"}), "unknown kind"),
        (b"PK\x03\x04 no archive", "damaged"),
        (b"\x1f\x8b\x08 gzip", "gzip"),
        (b"\x7fELF\x02", "a program"),
        (b"\x89HDF\r\n", "HDF5"),
        (os.urandom(64) + b"\xff", "not known|damaged"),
    ],
    ids=["path", "bomb", "member", "zip", "cut", "gzip", "elf", "hdf5", "random"],
)
def test_other_formats_are_refused(folder: Path, content: bytes, why: str) -> None:
    (folder / "model.skops").write_bytes(content)
    refused(folder, why)


def test_a_model_in_the_format_of_a_forbidden_runtime_is_refused(folder: Path) -> None:
    refused(folder, "permitted here: pt2", ("torch",))


def test_a_runtime_without_a_safe_format_is_refused(folder: Path) -> None:
    refused(folder, "no safe format", ("prophet",))
    refused(folder, "no safe format", ("pyfunc", "prophet"))


def test_of_a_model_that_may_run_its_own_code_only_the_form_is_looked_at(folder: Path) -> None:
    (folder / "code").mkdir()
    (folder / "code" / "model.py").write_text("print('hello')")
    (folder / "python_model.pkl").write_bytes(pickle.dumps({"a": 1}))
    refused(folder, "code")
    Inspector().inspect(folder, ("pyfunc",))
    (folder / "link").symlink_to("/etc/passwd")
    refused(folder, "symbolic link", ("pyfunc",))
    (folder / "link").unlink()
    (folder / "MLmodel").write_text("flavors:\n  keras: {data: x}\n")
    refused(folder, "no flavor python_function", ("pyfunc",))


@pytest.mark.parametrize("allow", [("sklearn",), ("pyfunc",)])
@pytest.mark.parametrize(
    ("kind", "shown"),
    [
        ('{"type": "array", "items": {"type": "double"}}', "Array(double)"),
        ('{"type": "object", "properties": {}}', "Object"),
        ('{"type": "map", "values": {"type": "long"}}', "Map(string -> long)"),
        ('{"type": "any"}', "AnyType"),
        ('{"type": "sparkml_vector"}', "SparkMLVector"),
    ],
)
def test_columns_of_types_that_are_not_served_are_refused(
    folder: Path, allow: tuple[str, ...], kind: str, shown: str
) -> None:
    inputs = f'[{{"name": "a", "type": "double"}}, {{"name": "tags", {kind[1:]}]'
    (folder / "MLmodel").write_text(f"{MLMODEL}signature:\n  inputs: '{inputs}'\n  params: null\n")
    with pytest.raises(Refused) as caught:
        Inspector().inspect(folder, allow)
    said = f"column tags of the model's signature is of MLflow's type {shown}, which is not served"
    assert (str(caught.value), bool(caught.value.next_step)) == (said, True)


def test_parameters_are_refused_where_the_runtime_takes_none(folder: Path) -> None:
    params = '[{"name": "k", "type": "long", "default": 3, "shape": null}]'
    (folder / "MLmodel").write_text(f"{MLMODEL}signature:\n  params: '{params}'\n")
    Inspector().inspect(folder, ("pyfunc",))
    with pytest.raises(
        Refused, match=r"has parameters \(k\), which the runtime sklearn does not take"
    ) as caught:
        Inspector().inspect(folder, ("sklearn",))
    assert "the runtime pyfunc runs with them" in caught.value.next_step


@pytest.mark.parametrize(
    ("spec", "why"),
    [
        ('{"name": "o", "type": "object", "default": {}}', "parameter o .* type Object, which is not served"),
        (
            '{"name": "r", "type": "double", "default": NaN}',
            "parameter r .* default nan, which JSON does not know",
        ),
    ],
)
def test_parameters_that_no_request_can_set_are_refused(folder: Path, spec: str, why: str) -> None:
    (folder / "MLmodel").write_text(f"{MLMODEL}signature:\n  params: '[{spec}]'\n")
    with pytest.raises(Refused, match=why):
        Inspector().inspect(folder, ("pyfunc",))


@pytest.mark.parametrize("inputs", ["no json", "[1]", "7", '[{"name": "a", "type": "array", "items": 3}]'])
def test_a_signature_that_cannot_be_read_is_refused(folder: Path, inputs: str) -> None:
    (folder / "MLmodel").write_text(f"{MLMODEL}signature: {{inputs: {json.dumps(inputs)}}}\n")
    refused(folder, "its signature is none")


def test_a_folder_without_a_model_is_refused(folder: Path) -> None:
    (folder / "model.skops").unlink()
    refused(folder, "no skops model")


def test_a_folder_without_mlmodel_is_refused(folder: Path) -> None:
    (folder / "MLmodel").unlink()
    refused(folder, "not an MLflow model folder")


# --- torch ---


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    import torch

    path = tmp_path_factory.mktemp("pt2") / "model.pt2"
    net = torch.nn.Sequential(
        torch.nn.Linear(4, 3), torch.nn.BatchNorm1d(3), torch.nn.ReLU(), torch.nn.Linear(3, 2)
    )
    rows = torch.export.Dim("rows", min=1)
    torch.export.save(
        torch.export.export(net.eval(), (torch.zeros(2, 4),), dynamic_shapes=({0: rows},)), path
    )
    return path.read_bytes()


@pytest.fixture
def torch_folder(tmp_path: Path) -> Path:
    (tmp_path / "model" / "data").mkdir(parents=True)
    text = "flavors:\n  pytorch: {model_data: data, code: null}\n"
    text += "  python_function: {loader_module: mlflow.pytorch, data: data,"
    text += " pickle_module_name: mlflow.pytorch.pickle_module}\n"
    (tmp_path / "model" / "MLmodel").write_text(text)
    return tmp_path / "model"


def rewritten(program: bytes, change: Callable[[str, bytes], bytes | None], **added: bytes) -> bytes:
    raw = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(program)) as source, zipfile.ZipFile(raw, "w") as target:
        for name in source.namelist():
            content = change(name, source.read(name))
            if content is not None:
                target.writestr(name, content)
        top = source.namelist()[0].partition("/")[0]
        for name, content in added.items():
            target.writestr(f"{top}/{name.replace('__', '/')}", content)
    return raw.getvalue()


def test_an_exported_program_passes(torch_folder: Path, program: bytes) -> None:
    (torch_folder / "data" / "model.pt2").write_bytes(program)
    Inspector().inspect(torch_folder, ("torch",))


def _in_graph(old: str, new: str) -> Callable[[str, bytes], bytes | None]:
    def change(name: str, content: bytes) -> bytes | None:
        if not name.endswith("models/model.json"):
            return content
        assert old.encode() in content
        return content.replace(old.encode(), new.encode())

    return change


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        ("torch.ops.aten.relu.default", "torch.hub.load", "list of operators"),
        ("torch.ops.aten.relu.default", "_operator.attrgetter", "list of operators"),
        ("torch.ops.aten.relu.default", "torch.ops.aten.relu.default.__globals__", "list of operators"),
        ("torch.ops.aten.relu.default", "#evil:op", "list of operators"),
    ],
)
def test_a_graph_that_calls_something_else_is_refused(
    torch_folder: Path, program: bytes, old: str, new: str, why: str
) -> None:
    (torch_folder / "data" / "model.pt2").write_bytes(rewritten(program, _in_graph(old, new)))
    refused(torch_folder, why, ("torch",))


def test_a_shape_that_sympy_would_run_is_refused(torch_folder: Path, program: bytes) -> None:
    def change(name: str, content: bytes) -> bytes | None:
        if not name.endswith("models/model.json"):
            return content
        graph = json.loads(content)
        graph["x"] = {"expr_str": "__import__('os').system('touch mark')"}
        return json.dumps(graph).encode()

    (torch_folder / "data" / "model.pt2").write_bytes(rewritten(program, change))
    refused(torch_folder, "plain arithmetic", ("torch",))


def test_sample_inputs_that_run_code_are_refused(torch_folder: Path, program: bytes, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    for protocol in (2, 4):
        evil = archive({"archive/data.pkl": pickle.dumps(Evil(mark), protocol=protocol)})

        def change(name: str, content: bytes, evil: bytes = evil) -> bytes | None:
            return evil if name.endswith("sample_inputs/model.pt") else content

        (torch_folder / "data" / "model.pt2").write_bytes(rewritten(program, change))
        refused(torch_folder, "a pickle (names|uses)", ("torch",))
    assert not mark.exists()


def test_pickled_weights_are_refused(torch_folder: Path, program: bytes) -> None:
    def change(name: str, content: bytes) -> bytes | None:
        return content.replace(b'"use_pickle": false', b'"use_pickle": true', 1)

    (torch_folder / "data" / "model.pt2").write_bytes(rewritten(program, change))
    refused(torch_folder, "pickled", ("torch",))


def test_custom_objects_are_refused(torch_folder: Path, program: bytes) -> None:
    changed = rewritten(program, lambda _, content: content, data__constants__custom_obj_0=b"x")
    (torch_folder / "data" / "model.pt2").write_bytes(changed)
    refused(torch_folder, "unknown kind", ("torch",))


# --- ONNX ---


@pytest.fixture
def onnx_folder(tmp_path: Path) -> Path:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "MLmodel").write_text("flavors:\n  onnx: {data: model.onnx, code: null}\n")
    return tmp_path / "model"


def onnx_model(domain: str = "", external: bool = False) -> bytes:
    from onnx import TensorProto, helper

    weight = helper.make_tensor("w", TensorProto.FLOAT, [1], [2.0])
    if external:
        entry = weight.external_data.add()
        entry.key, entry.value = "location", "../../../etc/passwd"
        weight.data_location = TensorProto.EXTERNAL
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("Mul", ["x", "w"], ["y"], domain=domain)],
        "g",
        [value("x", TensorProto.FLOAT, [None])],
        [value("y", TensorProto.FLOAT, [None])],
        [weight],
    )
    return bytes(helper.make_model(graph).SerializeToString())


def test_an_onnx_model_passes(onnx_folder: Path) -> None:
    (onnx_folder / "model.onnx").write_bytes(onnx_model())
    Inspector().inspect(onnx_folder, ("onnx",))


def test_an_onnx_model_with_weights_elsewhere_is_refused(onnx_folder: Path) -> None:
    (onnx_folder / "model.onnx").write_bytes(onnx_model(external=True))
    refused(onnx_folder, "another file", ("onnx",))


def test_an_onnx_model_with_foreign_operators_is_refused(onnx_folder: Path) -> None:
    (onnx_folder / "model.onnx").write_bytes(onnx_model(domain="evil.ops"))
    refused(onnx_folder, "evil.ops", ("onnx",))


def test_the_walk_imports_no_framework(folder: Path) -> None:
    """The control plane's process stays free of what it inspects."""
    code = (
        "import sys; from pathlib import Path; from mlplatform.trust.manifest import Inspector;"
        f"Inspector().inspect(Path({str(folder)!r}), ('sklearn',));"
        "print([m for m in ('sklearn', 'torch', 'skops', 'onnx', 'mlflow', 'numpy') if m in sys.modules])"
    )
    import sys

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
