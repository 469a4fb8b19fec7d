from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from types import MappingProxyType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlplatform.domain.canonical import canonical, digest, plain
from mlplatform.domain.ladder import CANDIDATE, Change
from mlplatform.domain.ledger import GENESIS, Actor, Draft, Kind, find_breaks, seal, tenures
from mlplatform.domain.verdict import Finding, Measurement, Verdict
from mlplatform.testing.clock import START


def chain(count):
    entries, prev = [], GENESIS
    for seq in range(1, count + 1):
        draft = Draft("churn", Kind.REFUSED, seq, Actor("os:ada"), f"reason {seq}")
        entries.append(seal(draft, seq, START + timedelta(seconds=seq), prev))
        prev = entries[-1].hash
    return entries, (count, prev)


def test_whole_chain_has_no_breaks():
    entries, head = chain(5)
    assert find_breaks("churn", entries, head) == []
    assert find_breaks("churn", [], (0, GENESIS)) == []


def test_hash_covers_every_field():
    entry = chain(1)[0][0]
    draft = entry.draft
    others = [
        replace(draft, model="fraud"),
        replace(draft, kind=Kind.APPROVED),
        replace(draft, version=9),
        replace(draft, actor=Actor("os:ada", True)),
        replace(draft, reason="another"),
        replace(draft, changes=(Change(1, None, CANDIDATE),)),
        replace(draft, stage="production"),
        replace(draft, data={"x": 1}),
        replace(draft, key="k"),
    ]
    hashes = {seal(d, 1, entry.at, GENESIS).hash for d in [draft, *others]}
    hashes |= {seal(draft, 2, entry.at, GENESIS).hash, seal(draft, 1, START, GENESIS).hash}
    hashes.add(seal(draft, 1, entry.at, "1" * 64).hash)
    assert len(hashes) == len(others) + 4


def test_hash_never_changes_with_a_release():
    assert chain(2)[1] == (2, "70170f07925dac1db1d07ec7ede26fbd322f46e993bb528e02f30519940c71e7")


@given(st.integers(2, 12), st.data())
def test_any_deletion_swap_edit_or_cut_is_found_at_the_first_bad_entry(count, data):
    entries, head = chain(count)
    at = data.draw(st.integers(0, count - 1))
    match data.draw(st.sampled_from(("delete", "swap", "edit", "cut"))):
        case "delete":
            del entries[at]
        case "swap":
            at = min(at, count - 2)
            entries[at], entries[at + 1] = entries[at + 1], entries[at]
        case "edit":
            entries[at] = replace(entries[at], draft=replace(entries[at].draft, reason="another"))
        case "cut":
            del entries[at:]
    found = find_breaks("churn", entries, head)
    assert found
    assert found[0].seq in {e.seq for e in entries[max(at - 1, 0) : at + 1]} | {0}


def test_one_deleted_entry_is_one_break():
    entries, head = chain(9)
    del entries[3]
    assert [(b.seq, b.why) for b in find_breaks("churn", entries, head)] == [
        (5, "expected entry 4"),
    ]


def test_tenures_are_the_versions_that_took_a_stage_in_order():
    def entry(*changes):
        return seal(Draft("m", Kind.PROMOTED, 1, Actor("a"), "", changes), 1, START, GENESIS)

    entries = [
        entry(Change(1, CANDIDATE, "production")),
        entry(Change(1, "production", "RETIRED"), Change(2, "staging", "production")),
        entry(Change(2, "production", "ROLLED_BACK"), Change(1, "RETIRED", "production")),
    ]
    assert tenures(entries, "production") == [1, 2, 1]
    assert tenures(entries, "RETIRED") == []


def test_canonical_encoding_is_the_same_whatever_holds_the_content():
    finding = Finding("auc", Verdict.PASS, "good", (Measurement("auc", 0.9),))
    spelled = {"gate": "auc", "verdict": "PASS", "because": "good", "limit": ""}
    spelled["measurements"] = [
        {"name": "auc", "value": 0.9, "low": None, "high": None, "n": None, "unit": ""}
    ]
    assert canonical(finding) == canonical(spelled)
    assert canonical(MappingProxyType({"b": {2, 1}, "a": ("ü", START)})) == (
        b'{"a":["\xc3\xbc","' + START.isoformat().encode() + b'"],"b":[1,2]}'
    )
    assert plain({"nested": {"finding": finding}}) == {"nested": {"finding": spelled}}


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf")])
def test_numbers_without_a_json_spelling_are_refused(number):
    with pytest.raises(ValueError):
        digest({"x": number})
