"""Whether a label can be the truth of a row: what the version that answered it is able to answer.

A label that cannot is never joined with its row, so that nobody who reads labelled rows meets one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

from mlplatform.domain.bundle import Task
from mlplatform.domain.canonical import one_line

Label = str | int | float | bool
Flaw = Literal["refused", "unknown_class"]
SHOWN_CLASSES = 10
SHOWN_CHARACTERS = 60
LONGEST_ID, LONGEST_LABEL = 200, 1000
"""Characters."""


@dataclass(frozen=True)
class Misfit:
    """Why a label is not joined."""

    flaw: Flaw
    expected: str


@dataclass(frozen=True)
class BadLabel:
    """One label that was not taken, for the person who sent it."""

    row: int
    """Among those that were given, from 1; 0 where that is not known any more."""
    id: str
    label: str
    expected: str

    def __str__(self) -> str:
        place = f"row {self.row}: " if self.row else ""
        return f"{place}{self.id} {self.label}: expected {self.expected}"

    @classmethod
    def of(cls, row: int, name: Any, label: Any, expected: str) -> BadLabel:
        return cls(row, _short(one_line(str(name))), _short(repr(label)), expected)


@dataclass(frozen=True)
class LabelRule:
    """What may be true of a row that a version answered.

    new_classes: whether a class that the version does not know is a truth too; all its answers are wrong then.
    """

    kind: Literal["classification", "regression"]
    classes: tuple[Label, ...] = ()
    new_classes: bool = False

    @classmethod
    def of(cls, task: Task, new_classes: bool = False) -> LabelRule:
        return cls(task.kind, task.classes, new_classes)

    def read(self, label: Label) -> Label | Misfit:
        """The label as the version would have answered it: a number, or one of its classes.

        >>> LabelRule("regression").read(" 6.5"), LabelRule("classification", (0, 1)).read(1.0)
        (6.5, 1)
        """
        if self.kind == "regression":
            number = as_number(label)
            return Misfit("refused", "a finite number") if number is None else number
        if not self.classes:
            return label
        found = self._class_of(label)
        if found is not None:
            return found
        return label if self.new_classes else Misfit("unknown_class", self._expected)

    def _class_of(self, label: Label) -> Label | None:
        if (found := self._by_key.get(label_key(label))) is not None or not isinstance(label, str):
            return found
        if self._are_flags:
            return self._by_key.get({"true": "1", "false": "0"}.get(label.strip().lower(), ""))
        number = as_number(label) if self._are_numbers else None
        return None if number is None else self._by_key.get(label_key(number))

    @cached_property
    def _by_key(self) -> Mapping[str, Label]:
        return {label_key(name): name for name in self.classes}

    @property
    def _are_flags(self) -> bool:
        return all(isinstance(name, bool) for name in self.classes)

    @property
    def _are_numbers(self) -> bool:
        return not any(isinstance(name, str) for name in self.classes)

    @property
    def _expected(self) -> str:
        names = ", ".join(map(str, self.classes[:SHOWN_CLASSES]))
        more = len(self.classes) - SHOWN_CLASSES
        return f"a class that the model knows ({names}{f' and {more} more' if more > 0 else ''})"


Rules = Callable[[str, int], LabelRule | None]
"""From a model and the number of its version; None where nothing is known of it: its labels are taken as they are."""


def anything(model: str, version: int) -> None:
    """No rule."""


def as_number(label: Label) -> int | float | None:
    """A finite number, also one that is written as text; None for what is none."""
    if isinstance(label, str):
        if "_" in label:
            return None
        try:
            label = float(label) if set(label) & set(".eEnN") else int(label)
        except ValueError:
            return None
    try:
        finite = math.isfinite(label)
    except OverflowError:  # a whole number beyond all floats
        return None
    if not finite:
        return None
    if isinstance(label, bool):
        return int(label)
    return label if abs(label) < 2**63 else float(label)


def label_key(label: Any) -> str:
    """Numbers match numbers (1 and 1.0 and np.int64(1)), text matches text, and "1" matches 1."""
    if isinstance(label, bytes):
        return label.decode("utf-8", "replace")
    if isinstance(label, float) and label.is_integer():
        label = int(label)
    return str(int(label)) if isinstance(label, bool) else str(label)


def is_prediction_id(name: str) -> bool:
    """`<request>/<row>`, as servers give them.

    >>> is_prediction_id("0197-aa/0"), is_prediction_id("0197-aa"), is_prediction_id("0197-aa/x")
    (True, False, False)
    """
    request, slash, row = name.rpartition("/")
    return bool(request and slash) and row.isascii() and row.isdecimal() and len(name) <= LONGEST_ID


def _short(text: str) -> str:
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[: SHOWN_CHARACTERS - 3]}..."


def said_of(labels: int) -> str:
    """What is told of labels that were left out; empty for none."""
    if not labels:
        return ""
    return (
        f"{labels} {'label was' if labels == 1 else 'labels were'} refused: not what the version can answer"
    )
