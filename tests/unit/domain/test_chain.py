"""What a hash covers, and that every change of a stored chain is found at the first bad row."""

from __future__ import annotations

from dataclasses import asdict, replace
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlplatform.domain.canonical import canonical, digest, plain
from mlplatform.domain.chain import (
    GENESIS,
    Beside,
    Head,
    Row,
    content_hash,
    facts,
    row_of,
    seal,
    sealing,
    verify_chain,
)
from mlplatform.domain.ladder import CANDIDATE, Change
from mlplatform.domain.ledger import Actor, Draft, Kind
from mlplatform.domain.version import Version
from mlplatform.testing.clock import START

TEXT = st.text(st.characters(exclude_categories=["Cs"]))
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)
DRAFTS = st.builds(
    Draft,
    TEXT,
    st.sampled_from(Kind),
    st.integers(0, 2**31 - 1),
    st.builds(Actor, TEXT, st.booleans()),
    TEXT,
    st.lists(st.builds(Change, st.integers(1, 9), st.none() | TEXT, TEXT), max_size=2).map(tuple),
    st.none() | TEXT,
    st.dictionaries(TEXT, JSON, max_size=3),
    st.none() | TEXT,
)


def chain(count):
    entries, prev = [], GENESIS
    for seq in range(1, count + 1):
        draft = Draft("churn", Kind.REFUSED, seq, Actor("os:ada"), f"reason {seq}")
        entries.append(seal(draft, seq, START + timedelta(seconds=seq), prev))
        prev = entries[-1].hash
    return [row_of(entry) for entry in entries], (count, prev)


def breaks(rows, end=(0, GENESIS), recorded=None, **beside):
    return [(b.seq, b.why) for b in verify_chain("churn", rows, Beside(end, **beside), recorded).breaks]


def test_whole_chain_has_no_breaks():
    rows, end = chain(5)
    found = verify_chain("churn", rows, Beside(end))
    assert (found.holds, found.entries, found.heads) == (True, 5, (Head("churn", *end),))
    assert verify_chain("churn", [], Beside()).holds


@given(DRAFTS, st.integers(1, 2**40), st.datetimes(timezones=st.just(START.tzinfo)))
def test_hash_is_that_of_the_canonical_encoding(draft, seq, at):
    assert seal(draft, seq, at, GENESIS).hash == digest(
        {"seq": seq, "at": at, "draft": draft, "prev": GENESIS}
    )


def test_hash_covers_every_field():
    entry = seal(Draft("churn", Kind.REFUSED, 1, Actor("os:ada"), "no"), 1, START, GENESIS)
    draft = entry.draft
    others = [
        replace(draft, model="fraud"),
        replace(draft, kind=Kind.APPROVED),
        replace(draft, version=9),
        replace(draft, actor=Actor("os:ada", True)),
        replace(draft, actor=Actor("os:eve")),
        replace(draft, reason="another"),
        replace(draft, changes=(Change(1, None, CANDIDATE),)),
        replace(draft, stage="production"),
        replace(draft, data={"x": 1}),
        replace(draft, key="k"),
    ]
    hashes = {seal(d, 1, entry.at, GENESIS).hash for d in [draft, *others]}
    hashes |= {seal(draft, 2, entry.at, GENESIS).hash, seal(draft, 1, START + timedelta(1), GENESIS).hash}
    hashes.add(seal(draft, 1, entry.at, "1" * 64).hash)
    assert len(hashes) == len(others) + 4


def test_hash_never_changes_with_a_release():
    assert chain(2)[1] == (2, "70170f07925dac1db1d07ec7ede26fbd322f46e993bb528e02f30519940c71e7")


@given(st.integers(2, 12), st.data())
def test_any_deletion_swap_edit_or_cut_is_found_at_the_first_bad_entry(count, data):
    rows, end = chain(count)
    at = data.draw(st.integers(0, count - 1))
    match data.draw(st.sampled_from(("delete", "swap", "edit", "cut"))):
        case "delete":
            del rows[at]
        case "swap":
            at = min(at, count - 2)
            rows[at : at + 2] = [rows[at + 1]._replace(seq=at + 1), rows[at]._replace(seq=at + 2)]
        case "edit":
            rows[at] = rows[at]._replace(reason="another")
        case "cut":
            del rows[at:]
    found = breaks(rows, end)
    assert found[0][0] in {row.seq for row in rows[max(at - 1, 0) : at + 1]} | {0}


@pytest.mark.parametrize("name", [name for name in Row._fields if name != "model"])
@pytest.mark.parametrize("value", [None, "", "x", "[]", 7, -1, 2.5, b"x", "2026-01-05", '{"a":1}'])
def test_any_column_with_any_other_value_is_found_there(name, value):
    rows, end = chain(3)
    if getattr(rows[1], name) == value:
        return
    rows[1] = rows[1]._replace(**{name: value})
    found = breaks(rows, end)
    assert found
    assert name == "seq" or found[0][0] == 2


def test_text_that_moves_from_one_column_to_its_neighbour_is_found():
    draft = Draft("churn", Kind.REFUSED, 1, Actor("os:ada"), "", data={"a": 1, "data": {}})
    row = row_of(seal(draft, 1, START, GENESIS))
    shifted = row._replace(changes='[],"data":{"a":1', data="{}}")
    assert content_hash(shifted) == content_hash(row), "this is why `changes` has to be one JSON value"
    (found,) = breaks([shifted], (1, row.hash))
    assert found[0] == 1
    assert found[1].startswith("cannot be read")


def test_one_deleted_entry_is_one_break():
    rows, end = chain(9)
    del rows[3]
    assert breaks(rows, end) == [(5, "expected entry 4")]


# --- what is kept beside a chain ------------------------------------------------------------------------------------


def story(*changes):
    """A chain of one model with these changes, one entry each."""
    rows, prev = [], GENESIS
    for seq, change in enumerate(changes, 1):
        kind = Kind.REGISTERED if change.origin is None else Kind.PROMOTED
        draft = Draft("churn", kind, change.version, Actor("os:ada"), "", (change,))
        if change.origin is None:
            draft = sealing(version(change.version), draft)
        entry = seal(draft, seq, START, prev)
        rows, prev = [*rows, row_of(entry)], entry.hash
    return rows, (len(rows), prev)


def version(number):
    return Version("churn", number, "d" * 64, "onnx", "r", START, "os:ada", 1234)


MOVES = (Change(1, None, CANDIDATE), Change(1, CANDIDATE, "staging"), Change(2, None, CANDIDATE))
STANDS = {"places": {1: "staging", 2: CANDIDATE}, "versions": {n: facts(version(n)) for n in (1, 2)}}


def test_standings_that_the_entries_do_not_tell_are_found():
    rows, end = story(*MOVES)
    assert breaks(rows, end, **STANDS) == []
    moved = {**STANDS, "places": {1: "staging", 2: "production"}}
    why = "leaves version 2 in CANDIDATE, but it stands in production"
    assert breaks(rows, end, **moved) == [(3, why)]


@pytest.mark.parametrize("name", [n for n in asdict(version(2)) if n not in ("model", "number")])
def test_version_that_is_not_what_was_registered_is_found_at_its_registration(name):
    rows, end = story(*MOVES)
    forged = replace(version(2), **{name: START + timedelta(1) if name == "created_at" else "forged"})
    found = breaks(rows, end, **{**STANDS, "versions": {1: facts(version(1)), 2: facts(forged)}})
    assert [(seq, why.startswith(f"registered version 2 with {name}")) for seq, why in found] == [(3, True)]


def test_history_that_cannot_have_happened_is_named_once():
    rows, end = story(*MOVES, Change(2, "production", "staging"), Change(2, CANDIDATE, "staging"))
    assert [seq for seq, why in breaks(rows, end, **STANDS) if "cannot be replayed" in why] == [4]


# --- a head that was kept elsewhere ---------------------------------------------------------------------------------


def test_chain_that_grew_contains_its_recorded_head():
    rows, end = chain(9)
    for row in rows:
        assert breaks(rows, end, Head("churn", row.seq, row.hash)) == []


def test_older_copy_is_whole_in_itself_and_found_by_the_recorded_head():
    rows, end = chain(9)
    older = rows[:5]
    assert breaks(older, (5, rows[4].hash)) == []
    why = f"the chain no longer contains the recorded entry 9, hash {end[1][:12]}"
    assert breaks(older, (5, rows[4].hash), Head("churn", *end)) == [(5, why)]


def test_history_written_anew_with_right_hashes_is_found_by_the_recorded_head():
    rows, end = chain(9)
    anew, prev = rows[:5], rows[4].hash
    for row in rows[5:]:
        forged = row._replace(reason="rosy", prev_hash=prev)
        prev = content_hash(forged)
        anew.append(forged._replace(hash=prev))
    assert breaks(anew, (9, prev)) == []
    assert breaks(anew, (9, prev), Head("churn", 5, rows[4].hash)) == []
    assert [seq for seq, _ in breaks(anew, (9, prev), Head("churn", *end))] == [9]


def test_canonical_text_of_an_entry_is_what_the_page_on_verifying_shows():
    draft = Draft("churn", Kind.APPROVED, 2, Actor("ada", True), "ok", stage="production")
    entry = seal(draft, 1, START, GENESIS)
    told = {"at": entry.at.isoformat(), "draft": plain(draft), "prev": GENESIS, "seq": 1}
    assert digest(told) == entry.hash
    assert canonical(told).startswith(b'{"at":"')
