"""Tables survive the way between parent and child, and nothing else gets through."""

from __future__ import annotations

import os
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlplatform.evaluation import wire
from mlplatform.stats.batch import Batch, Outputs

TEXTS = st.lists(st.none() | st.text(), min_size=1, max_size=8)


@given(st.text(), TEXTS)
@settings(deadline=None, max_examples=50)
def test_text_survives_with_its_gaps_and_any_name(name: str, texts: list[str | None]) -> None:
    values = np.empty(len(texts), dtype=object)
    values[:] = texts
    with TemporaryDirectory() as folder:
        path = Path(folder) / "table.npz"
        wire.save_batch(path, Batch((name,), arrays={name: values}))
        (column,) = wire.load_batch(path).columns().values()
    assert column.tolist() == texts


def test_a_matrix_and_columns_of_every_type_survive(tmp_path: Path) -> None:
    matrix = np.arange(6, dtype=np.float32).reshape(3, 2)
    wire.save_batch(tmp_path / "m.npz", Batch(("a", "b"), matrix=matrix))
    loaded = wire.load_batch(tmp_path / "m.npz")
    assert loaded.names == ("a", "b") and loaded.matrix is not None
    assert loaded.matrix.dtype == np.float32 and (loaded.matrix == matrix).all()
    columns = {
        "number": np.array([1.5, np.nan]),
        "when": np.array(["2026-01-01", "NaT"], dtype="datetime64[ns]"),
        "flag": np.array([True, False]),
        "text": np.array(["x", None], dtype=object),
    }
    wire.save_batch(tmp_path / "c.npz", Batch(tuple(columns), arrays=columns))
    for name, values in wire.load_batch(tmp_path / "c.npz").columns().items():
        assert values.dtype == columns[name].dtype
        np.testing.assert_array_equal(values, columns[name])


def test_answers_become_numbers_or_text_and_nothing_else(tmp_path: Path) -> None:
    odd = np.array([{"a": 1}, {"b": 2}], dtype=object)
    with pytest.raises(TypeError, match="dict"):
        wire.save_outputs(tmp_path / "a.npz", {"batch": Outputs(odd)})
    labels = np.array([1, 0, 1], dtype=object)
    wire.save_outputs(tmp_path / "a.npz", {"batch": Outputs(labels, np.ones((3, 2)))})
    answers = wire.load_outputs(tmp_path / "a.npz")["batch"]
    assert answers.predictions.dtype.kind == "i" and answers.scores is not None


def test_pickles_links_pipes_and_junk_are_no_tables(tmp_path: Path) -> None:
    np.savez(tmp_path / "pickled.npz", names=np.array([{}], dtype=object))
    (tmp_path / "junk.npz").write_bytes(b"PK\x03\x04 nonsense")
    np.savez(tmp_path / "other.npz", matrix=np.zeros(3))
    np.savez(tmp_path / "real.npz", names=np.frombuffer(b"[]", dtype=np.uint8))
    (tmp_path / "link.npz").symlink_to(tmp_path / "real.npz")
    os.mkfifo(tmp_path / "pipe.npz")
    for name in ("pickled", "junk", "other", "link", "pipe", "missing"):
        with pytest.raises(ValueError, match=r"table|file|pickle"):
            wire.load_outputs(tmp_path / f"{name}.npz")
