from __future__ import annotations

from types import MappingProxyType

import pytest

from mlplatform.domain.canonical import canonical, digest, plain
from mlplatform.domain.chain import GENESIS, seal
from mlplatform.domain.ladder import CANDIDATE, Change
from mlplatform.domain.ledger import Actor, Draft, Kind, concerns, tenures, touches
from mlplatform.domain.verdict import Finding, Measurement, Verdict
from mlplatform.testing.clock import START


def entry(*changes, **more):
    return seal(Draft("m", Kind.PROMOTED, 1, Actor("a"), "", changes, **more), 1, START, GENESIS)


def test_an_entry_touches_its_own_version_and_those_that_it_moves():
    draft = entry(Change(3, "production", "RETIRED")).draft
    assert [number for number in range(5) if touches(draft, number)] == [1, 3]


def test_an_entry_concerns_its_own_stage_and_those_that_are_left_or_entered():
    draft = entry(Change(3, "production", "RETIRED"), Change(1, "canary", "production"), stage="live").draft
    assert [stage for stage in ("staging", "canary", "production", "live") if concerns(draft, stage)] == [
        "canary",
        "production",
        "live",
    ]


def test_tenures_are_the_versions_that_took_a_stage_in_order():
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


def test_what_people_type_cannot_pass_for_our_own_lines():
    draft = Draft("m", Kind.REJECTED, 1, Actor("ada\x1b]0;pwn\x07"), "no\n  PASS  all gates\u202e")
    assert (draft.actor.name, draft.reason) == ("ada ]0;pwn", "no PASS all gates")
