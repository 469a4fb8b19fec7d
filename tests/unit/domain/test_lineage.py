"""A version's family: who was trained, what was made of it, and who was live then."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

from mlplatform.domain.ladder import Change
from mlplatform.domain.ledger import Actor, Draft, Entry, Kind
from mlplatform.domain.lineage import Lineage, Node, first_of, holder_after, line_to, lineage
from mlplatform.domain.version import Version

NOW = datetime(2026, 3, 1, tzinfo=UTC)
FIRST = Version("churn", 1, "d" * 64, "sklearn", "run1", NOW, "ada", 10)
CHILD = replace(FIRST, number=3, parent=1, technique="onnx")
GRANDCHILD = replace(FIRST, number=4, parent=3, technique="dynamic_int8")
STRANGER = replace(FIRST, number=2, run_id="run2")
ALL = [STRANGER, GRANDCHILD, CHILD, FIRST]


def entry(*changes: Change) -> Entry:
    return Entry(1, NOW, Draft("churn", Kind.PROMOTED, 1, Actor("ada"), "", changes), "", "")


def test_every_member_has_the_same_family() -> None:
    places = {1: "RETIRED", 3: "production"}
    whole = Node(FIRST, "RETIRED", (Node(CHILD, "production", (Node(GRANDCHILD, "-"),)),))
    for member in (FIRST, CHILD, GRANDCHILD):
        assert lineage(member, ALL, places, 2).root == whole
        assert first_of(member, ALL) == FIRST
    assert lineage(STRANGER, ALL, places).root == Node(STRANGER, "-")


def test_the_line_to_a_version_leaves_out_brothers_and_children() -> None:
    brother = replace(CHILD, number=5)
    family = lineage(CHILD, [*ALL, brother], {1: "RETIRED", 3: "production"}, 2)
    assert line_to(CHILD, family) == Lineage(Node(FIRST, "", (Node(CHILD, ""),)), 2)
    assert line_to(FIRST, family).root == Node(FIRST, "")


def test_a_parent_that_is_not_known_any_more_ends_the_line() -> None:
    assert lineage(GRANDCHILD, [GRANDCHILD, STRANGER], {}).first == GRANDCHILD


def test_edited_rows_that_lead_in_a_circle_end_somewhere() -> None:
    own_father = replace(FIRST, parent=1)
    older_child = replace(FIRST, number=1, parent=3)
    assert lineage(own_father, [own_father], {}).root == Node(own_father, "-")
    assert lineage(CHILD, [CHILD, older_child], {}).first == older_child


def test_who_held_a_stage_after_some_entries() -> None:
    first = entry(Change(1, "staging", "production"))
    second = entry(Change(1, "production", "STANDBY"), Change(2, "staging", "production"))
    gone = entry(Change(2, "production", "ROLLED_BACK"))
    back = entry(Change(2, "production", "ROLLED_BACK"), Change(1, "STANDBY", "production"))
    assert holder_after([first], "production") == 1
    assert holder_after([first, second], "production") == 2
    assert holder_after([first, second, gone], "production") is None
    assert holder_after([first, second, back], "production") == 1
    assert holder_after([second], "staging") is None
    assert holder_after([], "production") is None
