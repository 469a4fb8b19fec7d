"""A run is named by its id or by as much of it as we print; nothing else reaches a store."""

from __future__ import annotations

import pytest

from mlplatform.domain.run_id import demand_possible, is_whole, the_one
from mlplatform.errors import USAGE, UsageError


@pytest.mark.parametrize(
    "text", ["../../etc", "", "a b", "a'b", "-x", "e9a0%", "a/b", "a\nb", "x" * 65, "Äaaaaaaa"]
)
def test_what_cannot_be_an_id_is_a_mistake_of_usage(text: str) -> None:
    with pytest.raises(UsageError, match="cannot be the id of a run") as told:
        demand_possible(text)
    assert told.value.exit_code == USAGE and "`mlplatform train`" in told.value.next_step


def test_a_beginning_is_possible_and_not_whole() -> None:
    for text, whole in (("e9a04c3a", False), ("e9a04c3a" * 4, True), ("e9a04c3a" * 4 + "0", False)):
        demand_possible(text)
        assert is_whole(text) == whole


def test_the_beginning_of_several_ids_names_them() -> None:
    twins = ["abcdef01" + digit * 24 for digit in "10"]
    with pytest.raises(UsageError) as told:
        the_one("abcdef01", twins)
    assert str(told.value) == f"2 runs begin with abcdef01: {twins[1]}, {twins[0]}"
    assert the_one("abcdef011", twins) == twins[0]
    assert the_one("short", ["short", "shorter-one"]) == "short"
