"""Children that hang, crash, lie or reach out: one clear error each, and nothing left running."""

from __future__ import annotations

import json
import os
import re
import socket
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mlplatform.domain.bundle import Column, Task
from mlplatform.errors import ChildFailed, Refused, UsageError
from mlplatform.evaluation.evaluator import ChildEvaluator
from mlplatform.evaluation.process import Child
from mlplatform.sandbox import Limits
from mlplatform.testing.bundles import make_onnx_bundle
from mlplatform.testing.native import write_bundle

QUICK = Limits(seconds=20)
ANSWER = "import sys; sys.stdin.readline(); print('{\"ok\": true}', flush=True);"


def child(code: str, folder: Path, limits: Limits = QUICK) -> Child:
    return Child(folder, limits, "is tested", [sys.executable, "-c", code])


def gone(pid: int) -> bool:
    """Whether no process of this id is left but a zombie."""
    try:
        return "\nState:\tZ" in Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return True


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("print('hello', flush=True); input()", "ended with a reply that is none: b'hello'"),
        ("print('[]', flush=True); input()", "a reply that is none"),
        ("print('x' * 3_000_000, flush=True); input()", "a reply that is none: more than 1 MB"),
        ("raise SystemExit('out of luck')", "exit code 1: out of luck"),
        ("import sys; sys.exit(3)", "exit code 3: it said nothing"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "signal SIGSEGV"),
        ("import ctypes; ctypes.string_at(0)", "signal SIGSEGV"),
        ('print(\'{"ok": false, "cause": "no"}\', flush=True); input()', "an error: no"),
    ],
)
def test_a_child_that_babbles_or_dies_is_one_line(code: str, message: str, tmp_path: Path) -> None:
    with child(code, tmp_path) as started, pytest.raises(ChildFailed) as caught:
        started.load()
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_child_that_hangs_is_killed_with_its_children(tmp_path: Path) -> None:
    code = (
        "import subprocess, sys; sys.stdin.readline();"
        "c = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)']);"
        'print(\'{"ok": true, "pid": %d}\' % c.pid, flush=True);'
        "sys.stdin.readline(); import time; time.sleep(600)"
    )
    with child(code, tmp_path, replace(QUICK, seconds=5)) as started:
        grandchild = started.load()["pid"]
        pid = started._process.pid
        started._limits = replace(QUICK, seconds=0.2)
        with pytest.raises(ChildFailed, match="a timeout: no answer within"):
            started.ask("anything")
    assert not started.folder.exists()
    assert gone(pid) and _soon_gone(grandchild)


def test_a_graph_that_never_ends_is_stopped(tmp_path: Path) -> None:
    write_bundle(
        tmp_path / "endless",
        "onnx",
        "model.onnx",
        _endless(),
        Task("regression", "value"),
        [Column("x", "float")],
        {"x": [1.0, 2.0]},
        options={"layout": "matrix", "outputs": {"predictions": "y"}},
    )
    evaluator = ChildEvaluator(Limits(seconds=2.0))
    (problem,) = evaluator.serving_check(tmp_path / "endless").problems
    assert "timeout" in problem
    with pytest.raises(ChildFailed, match="timeout"):
        evaluator.answer(tmp_path / "endless", {"x": np.ones(3)})


def test_a_model_over_its_memory_is_refused_not_obeyed(tmp_path: Path) -> None:
    make_onnx_bundle(tmp_path / "b")
    report = ChildEvaluator(replace(QUICK, memory_bytes=150_000_000)).serving_check(tmp_path / "b")
    assert report.problems and "\n" not in report.problems[0]


def test_other_library_versions_are_refused_with_the_fix(tmp_path: Path) -> None:
    manifest = make_onnx_bundle(tmp_path / "b")
    old = replace(
        manifest, runtime="sklearn", requirements={"scikit-learn": "1.2.3", "numpy": np.__version__}
    )
    (tmp_path / "b" / "manifest.json").write_bytes(old.encode())
    with pytest.raises(Refused, match=r"made with scikit-learn 1\.2\.3 \(here: ") as caught:
        ChildEvaluator().answer(tmp_path / "b", {"a": np.ones(1), "b": np.ones(1), "c": np.ones(1)})
    assert "pip install scikit-learn==1.2.3" in caught.value.next_step
    assert "numpy" not in caught.value.next_step


def test_a_patch_release_of_a_library_is_no_other_version(tmp_path: Path) -> None:
    manifest = make_onnx_bundle(tmp_path / "b")
    patched = ".".join([*np.__version__.split(".")[:2], "99"])
    (tmp_path / "b" / "manifest.json").write_bytes(
        replace(manifest, requirements={"numpy": patched}).encode()
    )
    assert ChildEvaluator(QUICK).serving_check(tmp_path / "b").problems == ()


def test_a_table_without_a_feature_is_a_usage_error_that_names_it(tmp_path: Path) -> None:
    make_onnx_bundle(tmp_path / "b")
    with pytest.raises(UsageError, match="no column 'c'"):
        ChildEvaluator(QUICK).answer(tmp_path / "b", {"a": np.ones(2), "b": np.ones(2)})


def test_no_rows_need_no_child(tmp_path: Path) -> None:
    make_onnx_bundle(tmp_path / "b")
    (tmp_path / "b" / "model" / "model.onnx").unlink()
    empty = {name: np.empty(0) for name in "abc"}
    assert len(ChildEvaluator(QUICK).answer(tmp_path / "b", empty).predictions) == 0


def test_a_sample_that_is_broken_is_a_problem_of_the_bundle(tmp_path: Path) -> None:
    make_onnx_bundle(tmp_path / "b")
    (tmp_path / "b" / "sample.json").write_text(json.dumps({"a": [1.0]}))
    (problem,) = ChildEvaluator(QUICK).serving_check(tmp_path / "b").problems
    assert "no column" in problem


def test_the_sandbox_takes_what_it_says(tmp_path: Path) -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    probe = tmp_path / "probe.py"
    probe.write_text(
        "import json, os, socket, subprocess, sys\n"
        "from pathlib import Path\n"
        "from mlplatform.sandbox import Limits, enter\n"
        "folder, port = Path(sys.argv[1]), int(sys.argv[2])\n"
        "given_up = enter(folder / 'own', Limits(seconds=5, memory_bytes=2**31, open_files=32))\n"
        "def works(act):\n"
        "    try:\n"
        "        act()\n"
        "    except (OSError, MemoryError):\n"
        "        return False\n"
        "    return True\n"
        "print(json.dumps({'given_up': given_up,\n"
        "    'network': works(lambda: socket.create_connection(('127.0.0.1', port), 2)),\n"
        "    'inside': works(lambda: (folder / 'own' / 'x').write_text('x')),\n"
        "    'outside': works(lambda: (folder / 'x').write_text('x')),\n"
        "    'overwrite': works(lambda: (folder / 'probe.py').write_text('x')),\n"
        "    'remove': works(lambda: (folder / 'probe.py').unlink()),\n"
        "    'program': works(lambda: subprocess.run(['/bin/true'])),\n"
        "    'memory': works(lambda: bytearray(2**32)),\n"
        "    'files': works(lambda: [open(os.devnull) for _ in range(64)])}))\n"
    )
    (tmp_path / "own").mkdir()
    seen = _run(probe, tmp_path, listener.getsockname()[1])
    listener.close()
    assert seen["inside"] and not seen["memory"] and not seen["files"]
    taken = {"network": ["network"], "tcp": ["network"], "writing": ["outside", "overwrite", "remove"]}
    for what, acts in {**taken, "programs": ["program"]}.items():
        if what in seen["given_up"]:
            assert not any(seen[act] for act in acts), what
    assert sys.platform != "linux" or seen["given_up"], "Linux takes at least something"


def test_the_child_sees_no_secrets_of_its_parent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hunter2")
    code = ANSWER.replace('{"ok": true}', '{"ok": true, "secret": %d}').replace(
        ", flush", " % ('AWS_SECRET_ACCESS_KEY' in __import__('os').environ), flush"
    )
    with child(code, tmp_path) as started:
        assert started.load()["secret"] == 0


def test_the_child_imports_only_what_its_runtime_needs(tmp_path: Path) -> None:
    make_onnx_bundle(tmp_path / "b")
    code = (
        "import sys, json; from mlplatform.evaluation.child import _Model; from pathlib import Path;"
        f"_Model(Path({str(tmp_path / 'b')!r}));"
        "print(json.dumps(sorted({'mlflow', 'pandas', 'pyarrow', 'torch', 'sklearn', 'sqlalchemy', 'scipy'}"
        " & set(sys.modules))))"
    )
    assert _python(code) == "[]"


def _endless() -> bytes:
    from onnx import TensorProto, helper

    body = helper.make_graph(
        [
            helper.make_node("Identity", ["go_on"], ["go_on_out"]),
            helper.make_node("Add", ["state", "state"], ["state_out"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("go_on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("state", TensorProto.FLOAT, None),
        ],
        [
            helper.make_tensor_value_info("go_on_out", TensorProto.BOOL, []),
            helper.make_tensor_value_info("state_out", TensorProto.FLOAT, None),
        ],
    )
    graph = helper.make_graph(
        [helper.make_node("Loop", ["times", "always", "X"], ["y"], body=body)],
        "endless",
        [helper.make_tensor_value_info("X", TensorProto.FLOAT, [None, 1])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [None, 1])],
        [
            helper.make_tensor("times", TensorProto.INT64, [], [2**62]),
            helper.make_tensor("always", TensorProto.BOOL, [], [True]),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 15)], ir_version=8)
    return bytes(model.SerializeToString())


def _soon_gone(pid: int) -> bool:
    """A killed orphan is reaped by init, which may take a moment; wait for the event itself."""
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    import select

    try:
        return bool(select.select([handle], [], [], 10)[0])
    finally:
        os.close(handle)


def _run(script: Path, folder: Path, port: int) -> dict[str, bool]:
    import subprocess

    import mlplatform

    root = str(Path(mlplatform.__file__ or "").parent.parent)
    done = subprocess.run(
        [sys.executable, "-B", str(script), str(folder), str(port)],
        env={**os.environ, "PYTHONPATH": root},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    result: dict[str, bool] = json.loads(done.stdout)
    return result


def _python(code: str) -> str:
    import subprocess

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return re.sub(r"\s+$", "", done.stdout)
