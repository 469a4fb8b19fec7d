"""The steps of a rollout as people write them: `shadow:10m`, `5%:10m`, `25%:1h`, `100%`."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta

from mlplatform.domain.duration import duration

ALL_AT_ONCE = ("100%",)
_WRITTEN = re.compile(r"(shadow|\d+(?:\.\d+)?\s*%)(?::(.+))?")


@dataclass(frozen=True)
class Bake:
    """One step: a share of the requests for some time."""

    share: float
    """0 is shadow: it answers beside the live version, and nobody gets its answers."""
    lasts: timedelta = timedelta()

    @property
    def is_shadow(self) -> bool:
        return self.share == 0.0

    @property
    def is_all(self) -> bool:
        return self.share == 1.0

    def __str__(self) -> str:
        return "shadow" if self.is_shadow else percent(self.share)


def percent(share: float) -> str:
    """A share for people.

    >>> percent(0.005)
    '0.5 %'
    """
    return f"{100 * share:.4g} %"


def read_steps(steps: Sequence[str]) -> tuple[Bake, ...]:
    """The steps, first to last; ValueError names everything that is wrong with them.

    >>> [str(step) for step in read_steps(["shadow:10m", "5%:10m", "100%"])]
    ['shadow', '5 %', '100 %']
    """
    if wrong := list(mistakes(steps)):
        raise ValueError("; ".join(wrong))
    return tuple(_read(step) for step in steps)


def mistakes(steps: Sequence[str]) -> Iterator[str]:
    """All that is wrong, a clause each."""
    if not steps:
        yield 'steps are missing: write for example ["5%:10m", "100%"], or ["100%"] for all at once'
        return
    read = list[Bake]()
    for position, text in enumerate(steps):
        try:
            read.append(_read(text))
        except ValueError as error:
            yield f"step {text!r}: {error}"
            continue
        yield from _misplaced(text, read, position, len(steps))
    if read and len(read) == len(steps) and not read[-1].is_all:
        yield 'the last step must be "100%": without it the version would never hold the stage'


def _misplaced(text: str, read: Sequence[Bake], position: int, count: int) -> Iterator[str]:
    step, last = read[-1], position == count - 1
    if step.is_shadow and position:
        yield f"step {text!r}: shadow comes first, before any share of the requests"
    elif position and len(read) > 1 and step.share <= read[-2].share:
        yield f"step {text!r}: shares must grow, the one before is {read[-2]}"
    if step.is_all and not last:
        yield f"step {text!r}: nothing can follow 100 %"
    if step.is_all and step.lasts:
        yield f'step {text!r}: how long it is watched at 100 % is said by probation.lasts; write "100%"'
    if not step.is_all and not step.lasts:
        yield f"step {text!r}: a step must last; write for example {text.strip()}:10m"


def _read(text: str) -> Bake:
    found = _WRITTEN.fullmatch(text.strip())
    if not found:
        raise ValueError("write shadow:10m, 5%:10m or 100%")
    word, lasts = found[1], found[2]
    share = 0.0 if word == "shadow" else float(word.rstrip("% \t")) / 100
    if word != "shadow" and not 0 < share <= 1:
        raise ValueError("a share lies above 0 % and up to 100 %")
    return Bake(share, duration(lasts.strip()) if lasts else timedelta())
