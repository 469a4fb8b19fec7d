"""What passes between a worker and a process that runs a model's code, and what becomes of every kind of answer."""

from __future__ import annotations

import io
import json
from typing import Any

import numpy as np
import pandas as pd
import pytest

from mlplatform.plugins.runtimes import frames
from mlplatform.plugins.runtimes.pyfunc_child import as_outputs

ARRAYS = {
    "floats": np.array([[1.5, np.nan]], np.float32),
    "whole": np.array([2**63 - 1, -1]),
    "picture": np.arange(12, dtype=np.uint8).reshape(2, 2, 3)[:, :, ::-1],
    "flags": np.array([True, False]),
    "times": np.array(["2026-01-31T12:00:00.25", "NaT"], "datetime64[ns]"),
    "texts": np.array([["Zürich ☃", None], ["", "\x00"]], object),
    "bytes": np.array([b"\x00\xff", None, b""], object),
    "mixed": np.array([{"a": [1]}, 2, None], object),
    "empty": np.empty((0, 3)),
}


def sent(head: dict[str, Any], arrays: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    return frames.decode(io.BytesIO(b"".join(frames.encode(head, arrays))).read)


def test_arrays_arrive_as_they_were_sent() -> None:
    head, arrays = sent({"ok": True}, ARRAYS)
    assert head == {"ok": True} and list(arrays) == list(ARRAYS)
    for name, values in ARRAYS.items():
        assert arrays[name].dtype == values.dtype, name
        np.testing.assert_array_equal(arrays[name], values)


@pytest.mark.parametrize(
    "described",
    [
        [["a", "plain", "|O", [1], 8]],
        [["a", "plain", "<f8", [3], 8]],
        [["a", "plain", "<f8", [-1, 0], 8]],
        [["a", "bytes", "|O", [2**40], 8]],
        [["a", "json", "|O", [1], 8]],
        [["a", "plain"]],
        {"a": 1},
        None,
    ],
)
def test_a_frame_that_is_none_is_refused(described: Any) -> None:
    raw = json.dumps({"arrays": described}).encode()
    frame = len(raw).to_bytes(4, "little") + (8).to_bytes(8, "little") + raw + b"12345678"
    with pytest.raises(ValueError):
        frames.decode(io.BytesIO(frame).read)
    huge = (1).to_bytes(4, "little") + (2**60).to_bytes(8, "little")
    with pytest.raises(ValueError, match="a frame of"):
        frames.decode(io.BytesIO(huge).read)


@pytest.mark.parametrize(
    ("raw", "form", "named"),
    [
        (np.array([[1.5, 2.5]]), "list", {"predictions": [[1.5, 2.5]]}),
        ([1, 2], "list", {"predictions": [1, 2]}),
        (["a", None], "list", {"predictions": ["a", None]}),
        ([b"a\x00", b""], "list", {"predictions": [b"a\x00", b""]}),
        ([[1], [2, 3]], "list", {"predictions": [[1], [2, 3]]}),
        ([{"a": 1}], "list", {"predictions": [{"a": 1}]}),
        (pd.Series([1, 2], name="n"), "records", {"n": [1, 2]}),
        (pd.Series(["a"]), "records", {"0": ["a"]}),
        (
            pd.DataFrame({"n": [1.0], "t": pd.to_datetime(["2026-01-31"])}),
            "records",
            {"n": [1.0], "t": ["2026-01-31T00:00:00"]},
        ),
        (pd.DataFrame({"t": ["a", None]}), "records", {"t": ["a", None]}),
        ({"b": [1], "a": np.array([[True]])}, "dict", {"b": [1], "a": [[True]]}),
    ],
)
def test_every_kind_of_answer_becomes_arrays(raw: Any, form: str, named: dict[str, Any]) -> None:
    outputs = as_outputs(raw)
    assert (outputs.form, list(outputs.named())) == (form, list(named))
    assert {name: values.tolist() for name, values in outputs.named().items()} == named


@pytest.mark.parametrize("raw", ["text", 7, None, {}])
def test_an_answer_without_rows_is_refused(raw: Any) -> None:
    with pytest.raises(TypeError):
        as_outputs(raw)
