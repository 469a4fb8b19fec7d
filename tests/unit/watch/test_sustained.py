"""The trigger `sustained`: several bad windows of the live version, not one, and not those of its predecessor."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from mlplatform.domain.watch import Signal, State, Window
from mlplatform.plugins.triggers.sustained import SustainedTrigger

AT = datetime(2026, 1, 1, tzinfo=UTC)


def windows(states: str, version: int = 1, retrain: bool = True) -> list[Window]:
    """A: alarm, .: calm, ?: unknown."""
    kinds = {"A": State.ALARM, ".": State.OK, "?": State.UNKNOWN}
    signals = [Signal("quality", kinds[state], "it fell", retrain) for state in states]
    return [Window("shop", "shop", AT, AT, version, 100, 100, (signal,)) for signal in signals]


@pytest.mark.parametrize(
    ("states", "fires"),
    [
        ("AAA", True),
        ("A.A.A", True),
        ("AA", False),
        ("A..A.A", False),
        ("AAA.", False),
        ("AA?A", True),
        ("AAA?", True),
        ("", False),
    ],
)
def test_it_fires_when_three_of_the_last_five_alarmed(states: str, fires: bool) -> None:
    assert bool(SustainedTrigger(k=3, of=5).fires(windows(states))) is fires


def test_the_reason_counts_and_quotes() -> None:
    assert SustainedTrigger(2, 3).fires(windows("A.A")) == "2 of the last 3 windows alarmed (it fell)"


def test_alarms_of_inputs_alone_do_not_fire() -> None:
    assert not SustainedTrigger(1, 1).fires(windows("AAA", retrain=False))


def test_the_windows_of_an_earlier_version_do_not_count() -> None:
    assert not SustainedTrigger(3, 5).fires([*windows("AA"), *windows("A", version=2)])


@pytest.mark.parametrize(("k", "of", "name"), [(0, 5, "k"), (3, 2, "of")])
def test_a_wrong_option_is_named(k: int, of: int, name: str) -> None:
    with pytest.raises(ValueError, match=f"^{name} must"):
        SustainedTrigger(k, of)
