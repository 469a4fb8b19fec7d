"""One battery for every extension of a kind. Authors of extensions run it in their own tests.

Each check raises AssertionError with a sentence. `tests/checks/test_catalog.py` walks the catalog with them.
"""

from __future__ import annotations

import hashlib
import inspect
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any, get_args

import numpy as np

from mlplatform.catalog import find, names
from mlplatform.domain.bundle import Manifest
from mlplatform.domain.canonical import canonical
from mlplatform.domain.verdict import Finding, Verdict
from mlplatform.errors import MlplatformError
from mlplatform.ports.extensions import Evidence, Gate, Judge, Made, Need, Runtime, Subject, Technique
from mlplatform.stats.batch import Batch, Outputs
from mlplatform.stats.labels import to_labels
from mlplatform.stats.typed import rows_of, typed_batch
from mlplatform.testing.live import awkward_facts, make_facts, no_facts
from mlplatform.testing.subjects import awkward_subjects, make_subject

HEAVY = ("mlflow", "torch", "sklearn", "skl2onnx", "onnx", "onnxruntime", "sqlalchemy", "pandas", "pyarrow")
SAME = 0.9
"""Share of rows on which parent and child must agree: a technique may cost a little, not change the model."""


def check_declared(cls: type[Any]) -> None:
    """A frozen dataclass with a docstring, whose fields are documented options."""
    assert is_dataclass(cls), f"{cls.__name__} is no dataclass"
    assert cls.__dataclass_params__.frozen, f"{cls.__name__} is not frozen"  # type: ignore[attr-defined]
    text = cls.__doc__ or ""
    assert text and not text.startswith(f"{cls.__name__}("), f"{cls.__name__} has no docstring"
    source = inspect.getsource(cls)
    for option in fields(cls):
        described = re.search(rf"\b{option.name}\b", text)
        below = re.search(rf'^ +{option.name}:.*\n +"""', source, re.MULTILINE)
        assert described or below, f"the option {option.name} of {cls.__name__} is not documented"


def check_light(modules: Sequence[str]) -> None:
    """Importing the modules loads no heavy package, so that a name can be looked up for nothing."""
    code = (
        "import importlib, sys\n"
        "for name in sys.argv[2:]:\n"
        "    importlib.import_module(name)\n"
        "    loaded = sorted(set(sys.argv[1].split(',')) & set(sys.modules))\n"
        "    assert not loaded, f'{name} loads {loaded}'\n"
    )
    command = [sys.executable, "-c", code, ",".join(HEAVY), *modules]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr.strip().splitlines()[-1]


def check_options_refused(cls: type[Any], **options: Any) -> None:
    """Nonsense is refused when the gate is made, in a ValueError that names the option."""
    try:
        cls(**options)
    except ValueError as error:
        assert any(option.name in str(error) for option in fields(cls)), f"{error} names no option"
    else:
        raise AssertionError(f"{cls.__name__} takes {options}")


def check_gate(gate: Gate) -> None:
    """Pure, deterministic, and unshaken by awkward subjects; findings that can be stored and read."""
    unknown = gate.needs - set(get_args(Need))
    assert not unknown, f"needs {sorted(unknown)}, which nobody measures"
    for name, subject in {"ordinary": make_subject(), **awkward_subjects()}.items():
        before = _fingerprint(subject)
        first, second = gate.judge(subject), gate.judge(subject)
        assert first == second, f"judges {name} in two ways"
        assert _fingerprint(subject) == before, f"changes the subject ({name})"
        _check_finding(first, name)
    missing = awkward_subjects()["nothing measured"]
    if "answers" in gate.needs or "serving" in gate.needs:
        assert gate.judge(missing).verdict is not Verdict.PASS, "passes what was not measured"


def check_judge(judge: Judge) -> None:
    """Pure and deterministic, unshaken by awkward facts, and never content with nothing."""
    assert judge.needs and judge.needs <= set(get_args(Evidence)), f"needs {sorted(judge.needs)}"
    for name, facts in {"ordinary": make_facts(), **awkward_facts()}.items():
        before = repr(facts)
        first, second = judge.judge(facts), judge.judge(facts)
        assert first == second, f"judges {name} in two ways"
        assert repr(facts) == before, f"changes the facts ({name})"
        _check_finding(first, name)
    ordinary, nothing = judge.judge(make_facts()), judge.judge(no_facts())
    assert ordinary.verdict is Verdict.PASS, f"holds up a version like its incumbent: {ordinary.because}"
    assert nothing.verdict is Verdict.INCONCLUSIVE, "does not wait for what it has to see"


def check_technique(technique: Technique, bundle: Path, manifest: Manifest, into: Path) -> Made:
    """A child that answers like its parent, from files below `model/`, with the parent left as it was."""
    known = names("runtime")
    assert technique.accepts and technique.accepts <= set(known), f"accepts {sorted(technique.accepts)}"
    assert manifest.runtime in technique.accepts, f"does not accept {manifest.runtime}"
    before = _folder_digest(bundle)
    made = technique.compress(bundle, manifest, into)
    assert _folder_digest(bundle) == before, "changes its parent"
    assert made.runtime in known, f"makes a bundle for the unknown runtime {made.runtime}"
    assert made.model_path.startswith("model/") and (into / made.model_path).exists(), "made no model"
    strays = [path for path in into.iterdir() if path.name != "model"]
    assert not strays, f"writes {strays[0].name} beside the model"
    canonical({"options": made.options, "notes": made.notes})
    child = replace(
        manifest,
        runtime=made.runtime,
        model_path=made.model_path,
        options=dict(made.options),
        task=made.task or manifest.task,
    )
    _check_alike((bundle, manifest), (into, child))
    return made


def check_runtime(runtime: Runtime, bundle: Path, manifest: Manifest, scratch: Path) -> None:
    """Answers rows alone as in a batch, and refuses damaged files with an error of ours."""
    assert isinstance(runtime.safe, bool), "does not say whether loading is safe"
    batch = _sample(bundle, manifest)
    whole = runtime.load(bundle, manifest).predict(batch)
    assert len(whole.predictions) == batch.rows, (
        f"{batch.rows} rows gave {len(whole.predictions)} predictions"
    )
    predictor = runtime.load(bundle, manifest)
    for row in range(batch.rows):
        _check_close(predictor.predict(rows_of(batch, row, row + 1)), whole, row)
    file = manifest.model_path
    raw = (bundle / file).read_bytes()
    damaged = {"empty": b"", "cut": raw[: len(raw) // 2], "noise": b"\x00\xffnothing" * 100, "missing": None}
    for name, content in damaged.items():
        folder = scratch / name
        (folder / file).parent.mkdir(parents=True)
        if content is not None:
            (folder / file).write_bytes(content)
        _check_refused(runtime, folder, manifest, f"a model file that is {name}")


# --- helpers ------------------------------------------------------------------------------------------------


def _check_finding(finding: Finding, name: str) -> None:
    assert isinstance(finding.verdict, Verdict), f"{name}: the verdict is {finding.verdict!r}"
    assert finding.gate and finding.because, f"{name}: a finding without its gate or its reason"
    assert "\n" not in finding.because, f"{name}: the reason has several lines"
    canonical(finding)  # raises for NaN and infinity, which no ledger takes


def _check_refused(runtime: Runtime, bundle: Path, manifest: Manifest, what: str) -> None:
    try:
        runtime.load(bundle, manifest)
    except MlplatformError:
        return
    except Exception as error:
        raise AssertionError(
            f"meets {what} with {type(error).__name__}, not with an error of ours"
        ) from error
    raise AssertionError(f"loads {what}")


def _check_alike(parent: tuple[Path, Manifest], child: tuple[Path, Manifest]) -> None:
    batch = _sample(*parent)
    answers = []
    for bundle, manifest in (parent, child):
        outputs = find("runtime", manifest.runtime)().load(bundle, manifest).predict(batch)
        answers.append(to_labels(outputs.predictions, manifest.task.output, manifest.task.classes or None))
    before, after = answers
    if parent[1].task.kind == "classification":
        same = float((before.astype(str) == after.astype(str)).mean())
        assert same >= SAME, f"the child answers {1 - same:.0%} of the rows differently"
    else:
        off = float(np.abs(before - after).max()) / max(float(np.ptp(before)), 1e-9)
        assert off <= 1 - SAME, f"the child is off by {off:.0%} of the answers' spread"


def _check_close(alone: Outputs, whole: Outputs, row: int) -> None:
    for name in ("predictions", "scores"):
        one, many = getattr(alone, name), getattr(whole, name)
        assert (one is None) == (many is None), f"{name} come and go"
        if one is None:
            continue
        assert one.shape == many[row : row + 1].shape, f"{name} of a row alone have another shape"
        same = np.allclose(one, many[row], atol=1e-4) if one.dtype.kind == "f" else (one == many[row]).all()
        assert same, f"row {row} has other {name} alone than in a batch"


def _sample(bundle: Path, manifest: Manifest) -> Batch:
    import json

    return typed_batch(json.loads((bundle / "sample.json").read_bytes()), manifest.inputs)


def _fingerprint(subject: Subject) -> list[bytes]:
    arrays = [subject.truth, *subject.columns.values()]
    for answers in (subject.answers, subject.incumbent_answers):
        if answers is not None:
            arrays += [answers.labels, *([answers.scores] if answers.scores is not None else [])]
    return [repr(values.tolist()).encode() for values in arrays]


def _folder_digest(folder: Path) -> str:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return hashlib.sha256(b"".join(str(p).encode() + p.read_bytes() for p in files)).hexdigest()
