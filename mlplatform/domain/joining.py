"""What becomes of labels that were given: joined, waiting, known already, in conflict, replaced, or kept aside.

Pure; who keeps rows and labels, and where, is the business of the port `Observations`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from mlplatform.domain.truth import BadLabel, Label, Misfit, Rules, label_key

SHOWN_MISTAKES = 20
Place = tuple[str, int]
"""A row's model, and the version that answered it."""
Numbered = tuple[int, str, Label]
"""Where it stood among those that were given, the prediction's id, the label."""


@dataclass
class Sorted:
    """Labels by what becomes of them, by prediction id."""

    matched: dict[str, Label] = field(default_factory=dict)
    """As the rules read them."""
    waiting: dict[str, Label] = field(default_factory=dict)
    """Their row has not come yet, and nobody knows which rule is theirs."""
    aside: dict[str, tuple[Label, Place]] = field(default_factory=dict)
    """They do not fit, and their row has no other label."""
    outdated: dict[str, Label] = field(default_factory=dict)
    """Labels of old that are no longer joined: replaced, or they never fitted."""
    counts: Counter[str] = field(default_factory=Counter)
    corrected: Counter[Place] = field(default_factory=Counter)
    """Labels that were replaced, by the version that answered their rows."""
    bad: list[BadLabel] = field(default_factory=list)
    """Of many the first ones."""

    @property
    def joined(self) -> dict[str, Label]:
        return self.matched | self.waiting

    @property
    def changes(self) -> bool:
        return bool(self.matched or self.waiting or self.aside)


def sort_labels(
    given: Iterable[Numbered],
    places: Mapping[str, Place],
    known: Mapping[str, Label],
    rules: Rules,
    replacing: bool = False,
) -> Sorted:
    """`places`: of the rows that were captured. `known`: labels that were joined or wait.

    Of two labels for one row the first stays. With `replacing` it stays only among those that are given now.
    """
    out = Sorted()
    for row, name, label in given:
        place = places.get(name)
        read = _read(rules, place, label)
        if isinstance(read, Misfit):
            _refuse(out, BadLabel.of(row, name, label, read.expected), read)
            old = _fitting(rules, place, known, name)
            if place is not None and name not in out.matched and old is None:
                out.aside[name] = (label, place)
        elif (first := out.matched.get(name, out.waiting.get(name))) is not None:
            out.counts["repeated" if label_key(first) == label_key(read) else "conflicting"] += 1
        else:
            _take(out, name, read, place, known.get(name), _fitting(rules, place, known, name), replacing)
    return out


def _take(
    out: Sorted,
    name: str,
    label: Label,
    place: Place | None,
    stored: Label | None,
    old: Label | None,
    replacing: bool,
) -> None:
    """`old`: the stored label, where it fits."""
    if old is not None and label_key(old) == label_key(label):
        out.counts["repeated"] += 1
        return
    if old is not None and not replacing:
        out.counts["conflicting"] += 1
        return
    if stored is not None:
        out.outdated[name] = stored
    if old is not None:
        out.counts["replaced"] += 1
        if place is not None:
            out.corrected[place] += 1
    else:
        out.counts["pending" if place is None else "matched"] += 1
    (out.waiting if place is None else out.matched)[name] = label
    out.aside.pop(name, None)


def _read(rules: Rules, place: Place | None, label: Label) -> Label | Misfit:
    rule = rules(*place) if place is not None else None
    return label if rule is None else rule.read(label)


def _fitting(rules: Rules, place: Place | None, known: Mapping[str, Label], name: str) -> Label | None:
    if (old := known.get(name)) is None:
        return None
    read = _read(rules, place, old)
    return None if isinstance(read, Misfit) else read


def _refuse(out: Sorted, bad: BadLabel, misfit: Misfit) -> None:
    out.counts[misfit.flaw] += 1
    if len(out.bad) < SHOWN_MISTAKES:
        out.bad.append(bad)
