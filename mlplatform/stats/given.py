"""Labels as somebody gave them: ids and truths of whatever type, read as labels or told as mistakes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from mlplatform.domain.joining import SHOWN_MISTAKES, Numbered
from mlplatform.domain.truth import LONGEST_LABEL, BadLabel, Label, is_prediction_id
from mlplatform.stats.spec import is_null


@dataclass(frozen=True)
class Given:
    """What can be joined, and what cannot whatever row it is for."""

    labels: tuple[Numbered, ...] = ()
    empty: int = 0
    """Nulls, which say nothing."""
    refused: int = 0
    bad: tuple[BadLabel, ...] = ()
    """Of many refused ones the first."""


def read_given(ids: Iterable[Any], truth: Iterable[Any]) -> Given:
    """Labels by row, from 1: numbers, text and booleans for rows that a server may have answered."""
    labels: list[Numbered] = []
    bad: list[BadLabel] = []
    empty = refused = 0
    for row, (name, value) in enumerate(zip(ids, truth, strict=True), 1):
        if is_null(value):
            empty += 1
            continue
        label = value.item() if isinstance(value, np.generic) else value
        expected = _wanted(name, label)
        if not expected:
            labels.append((row, str(name), label))
            continue
        refused += 1
        if len(bad) < SHOWN_MISTAKES:
            bad.append(BadLabel.of(row, name, label, expected))
    return Given(tuple(labels), empty, refused, tuple(bad))


def _wanted(name: Any, label: Label | Any) -> str:
    """What was expected instead; empty where nothing is wrong."""
    if not is_prediction_id(str(name)):
        return "the id of a prediction, <request>/<row>"
    if not isinstance(label, str | int | float | bool):
        return f"a number, text or true/false, not {type(label).__name__}"
    if isinstance(label, str) and len(label) > LONGEST_LABEL:
        return f"at most {LONGEST_LABEL} characters"
    return ""
