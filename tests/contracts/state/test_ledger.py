from __future__ import annotations

from dataclasses import replace
from datetime import timedelta, timezone

import pytest

from mlplatform.domain.chain import GENESIS, Head, Verification, facts
from mlplatform.domain.ladder import CANDIDATE, REJECTED, RETIRED, Change
from mlplatform.domain.ledger import Actor, Draft, Kind
from mlplatform.errors import Conflict, StageConflict, VersionMoved
from mlplatform.testing.clock import START

ADA = Actor("os:ada")


def note(reason="looked at it", **more):
    return Draft("churn", Kind.REFUSED, 1, ADA, reason, **more)


def test_unknown_model_has_no_versions_no_entries_no_breaks(state):
    assert state.ledger.models() == []
    assert state.ledger.versions("churn") == []
    assert state.ledger.standings("churn").places == {}
    assert state.ledger.entries("churn") == []
    assert state.ledger.verify("churn").holds


def test_registered_version_comes_back_as_it_was_and_stands_where_its_entry_says(state, make):
    version = make.version(7)
    entry = state.ledger.register(version, make.registered(7))
    assert state.ledger.models() == ["churn"]
    assert state.ledger.versions("churn") == [version]
    assert state.ledger.standings("churn").places == {7: CANDIDATE}
    assert (entry.seq, entry.prev_hash, entry.at) == (1, GENESIS, START)


def test_versions_are_ordered_by_number(state, make):
    make.register(state.ledger, 10, 9, 2)
    assert [v.number for v in state.ledger.versions("churn")] == [2, 9, 10]
    assert list(state.ledger.standings("churn").places) == [2, 9, 10]


def test_registering_with_the_same_key_changes_nothing(state, make):
    first = state.ledger.register(make.version(1), make.registered(1, key="k"))
    again = state.ledger.register(make.version(1), make.registered(1, key="k"))
    assert again == first
    assert state.ledger.entries("churn") == [first]


def test_registering_a_taken_number_is_a_conflict_and_leaves_no_entry(state, make):
    make.register(state.ledger, 1)
    with pytest.raises(Conflict):
        state.ledger.register(make.version(1), make.registered(1, key="another"))
    assert len(state.ledger.entries("churn")) == 1


def test_registration_that_does_not_say_where_the_version_stands_is_our_bug(state, make):
    with pytest.raises(ValueError, match="churn@1"):
        state.ledger.register(make.version(1), note())
    with pytest.raises(ValueError, match="churn@1"):
        state.ledger.register(make.version(1), replace(make.registered(1), version=2))
    with pytest.raises(ValueError, match="churn@1"):
        state.ledger.register(make.version(1), replace(make.registered(1), kind=Kind.PROMOTED))
    assert state.ledger.models() == []


def test_entries_come_back_equal_to_what_was_appended(state, make):
    make.register(state.ledger, 1)
    state.clock.set(START + timedelta(microseconds=123457))
    draft = Draft(
        "churn",
        Kind.PROMOTED,
        1,
        Actor("token:müller", verified=True),
        "ein 'Grund' mit \"Zeichen\" \\ und 🙂",
        (Change(1, CANDIDATE, "staging"),),
        "staging",
        {"findings": [{"low": 0.1, "n": None, "ok": True}], "big": 2**60, "tiny": 1e-300, "text": "\x00ü"},
        "key-1",
    )
    entry = state.ledger.append(draft)
    assert entry.draft == draft
    assert entry.at == START + timedelta(microseconds=123457)
    assert state.ledger.entries("churn")[-1] == entry
    assert state.ledger.verify("churn").holds


def test_tuples_in_data_come_back_as_json_knows_them(state):
    entry = state.ledger.append(note(data={"pair": (1, 2), "at": START}))
    assert entry.draft.data == {"pair": [1, 2], "at": START.isoformat()}
    assert state.ledger.entries("churn") == [entry]


def test_numbers_that_json_does_not_know_are_refused_before_anything_is_written(state):
    with pytest.raises(ValueError):
        state.ledger.append(note(data={"auc": float("nan")}))
    assert state.ledger.entries("churn") == []


def test_times_of_other_zones_are_kept_as_utc(state):
    state.clock.set(START.astimezone(timezone(timedelta(hours=5, minutes=30))))
    assert state.ledger.append(note()).at.utcoffset() == timedelta(0)
    assert state.ledger.entries("churn")[0].at == START
    assert state.ledger.verify("churn").holds


def test_time_without_a_zone_is_refused(state):
    state.clock.set(START.replace(tzinfo=None))
    with pytest.raises(ValueError, match="no time zone"):
        state.ledger.append(note())


def test_promotion_moves_the_version_and_retires_the_incumbent_at_once(state, make):
    make.register(state.ledger, 1, 2)
    state.ledger.append(make.promotion(state.ledger, 1))
    state.ledger.append(make.promotion(state.ledger, 2))
    assert state.ledger.standings("churn").places == {1: RETIRED, 2: "staging"}


def test_a_stage_is_vacated_before_it_is_entered_whatever_the_order(state, make):
    make.register(state.ledger, 1, 2, 3)
    state.ledger.append(make.promotion(state.ledger, 1))
    state.ledger.append(make.promotion(state.ledger, 1, "production"))
    state.ledger.append(make.promotion(state.ledger, 2))
    changes = (
        Change(3, CANDIDATE, "staging"),
        Change(2, "staging", "production"),
        Change(1, "production", RETIRED),
    )
    state.ledger.append(Draft("churn", Kind.PROMOTED, 3, ADA, "all move up", changes))
    assert state.ledger.standings("churn").places == {1: RETIRED, 2: "production", 3: "staging"}
    assert state.ledger.verify("churn").holds


def test_one_version_may_climb_twice_in_one_entry(state, make):
    make.register(state.ledger, 1)
    changes = (Change(1, CANDIDATE, "staging"), Change(1, "staging", "production"))
    state.ledger.append(Draft("churn", Kind.PROMOTED, 1, ADA, "both", changes))
    assert state.ledger.standings("churn").places == {1: "production"}
    assert state.ledger.verify("churn").holds


def test_stage_that_was_taken_meanwhile_is_a_conflict_that_names_the_holder(state, make):
    make.register(state.ledger, 1, 2)
    slow = make.promotion(state.ledger, 2)
    state.ledger.append(make.promotion(state.ledger, 1))
    with pytest.raises(StageConflict) as caught:
        state.ledger.append(slow)
    facts = caught.value.facts
    assert (facts["model"], facts["stage"], facts["holder"]) == ("churn", "staging", 1)
    assert state.ledger.standings("churn").places == {1: "staging", 2: CANDIDATE}
    assert len(state.ledger.entries("churn")) == 3


def test_incumbent_that_was_replaced_meanwhile_is_a_conflict_that_names_the_real_holder(state, make):
    make.register(state.ledger, 1, 2, 3)
    state.ledger.append(make.promotion(state.ledger, 1))
    slow = make.promotion(state.ledger, 3)
    state.ledger.append(make.promotion(state.ledger, 2))
    with pytest.raises(StageConflict) as caught:
        state.ledger.append(slow)
    facts = caught.value.facts
    assert (facts["stage"], facts["holder"], facts["expected"]) == ("staging", 2, 1)
    assert state.ledger.standings("churn").places == {1: RETIRED, 2: "staging", 3: CANDIDATE}


def test_candidate_that_was_rejected_meanwhile_is_a_conflict_that_says_so(state, make):
    make.register(state.ledger, 1)
    slow = make.promotion(state.ledger, 1)
    state.ledger.append(Draft("churn", Kind.REJECTED, 1, ADA, "bad", (Change(1, CANDIDATE, REJECTED),)))
    with pytest.raises(VersionMoved, match="version 1 is in REJECTED, expected CANDIDATE"):
        state.ledger.append(slow)


def test_unknown_version_cannot_move(state):
    with pytest.raises(VersionMoved, match="no place"):
        state.ledger.append(Draft("churn", Kind.PROMOTED, 9, ADA, "", (Change(9, CANDIDATE, "staging"),)))
    assert state.ledger.models() == []


def test_refused_change_undoes_the_others_of_its_entry(state, make):
    make.register(state.ledger, 1, 2)
    changes = (Change(1, CANDIDATE, "staging"), Change(2, "production", RETIRED))
    with pytest.raises(StageConflict):
        state.ledger.append(Draft("churn", Kind.PROMOTED, 1, ADA, "half", changes))
    assert state.ledger.standings("churn").places == {1: CANDIDATE, 2: CANDIDATE}


def test_repeated_key_returns_the_entry_that_is_there(state, make):
    make.register(state.ledger, 1)
    draft = make.promotion(state.ledger, 1, key="once")
    first = state.ledger.append(draft)
    state.clock.advance(5)
    assert state.ledger.append(draft) == first
    assert state.ledger.append(note(key="once")) == first
    assert len(state.ledger.entries("churn")) == 2


def test_a_key_belongs_to_its_model(state):
    state.ledger.append(note(key="k"))
    other = state.ledger.append(Draft("fraud", Kind.REFUSED, 1, ADA, "", key="k"))
    assert other.draft.model == "fraud"
    assert len(state.ledger.entries("fraud")) == 1


def test_chains_of_models_are_separate(state, make):
    make.register(state.ledger, 1, model="churn")
    make.register(state.ledger, 1, model="fraud")
    assert state.ledger.models() == ["churn", "fraud"]
    assert [e.seq for e in state.ledger.entries("fraud")] == [1]


def test_entries_until_a_moment_include_that_moment(state):
    for _ in range(3):
        state.ledger.append(note())
        state.clock.advance(10)
    assert len(state.ledger.entries("churn", START - timedelta(microseconds=1))) == 0
    assert len(state.ledger.entries("churn", START + timedelta(seconds=10))) == 2
    assert len(state.ledger.entries("churn", START + timedelta(days=1))) == 3


def test_with_a_clock_put_back_the_past_is_still_a_beginning_of_the_chain(state):
    state.ledger.append(note())
    state.clock.advance(100)
    state.ledger.append(note())
    state.clock.advance(-50)
    state.ledger.append(note())
    assert [e.seq for e in state.ledger.entries("churn", START + timedelta(seconds=60))] == [1, 2, 3]
    assert state.ledger.verify("churn").holds


def test_projections_are_due_until_they_reach_the_newest_entry(state, make):
    make.register(state.ledger, 1)
    make.register(state.ledger, 1, model="fraud")
    assert state.outbox.due() == [("churn", 1), ("fraud", 1)]
    state.ledger.append(make.promotion(state.ledger, 1))
    assert state.outbox.told("churn") == 0
    state.outbox.done("churn", 1)
    assert state.outbox.told("churn") == 1
    assert state.outbox.due() == [("churn", 2), ("fraud", 1)]
    state.outbox.done("churn", 2)
    state.outbox.done("churn", 1)
    state.outbox.done("unknown", 1)
    assert (state.outbox.told("churn"), state.outbox.told("unknown")) == (2, 0)
    assert state.outbox.due() == [("fraud", 1)]


# --- of a long history only what is needed --------------------------------------------------------------------------


@pytest.fixture
def story(state, make):
    """1 and 2 enter staging, 2 goes on to production, 3 is refused."""
    make.register(state.ledger, 1, 2, 3)
    state.ledger.append(make.promotion(state.ledger, 1, key="first"))
    state.clock.advance(10)
    state.ledger.append(make.promotion(state.ledger, 2))
    state.ledger.append(make.promotion(state.ledger, 2, "production"))
    state.ledger.append(note(stage="production", key="last"))
    return state.ledger


def seqs(entries):
    return [entry.seq for entry in entries]


@pytest.mark.parametrize(
    ("only", "found"),
    [
        ({}, [1, 2, 3, 4, 5, 6, 7]),
        ({"newest": 2}, [6, 7]),
        ({"newest": 0}, []),
        ({"newest": 99}, [1, 2, 3, 4, 5, 6, 7]),
        ({"key": "first"}, [4]),
        ({"key": "unknown"}, []),
        ({"kinds": (Kind.REGISTERED,)}, [1, 2, 3]),
        ({"kinds": {Kind.REFUSED, Kind.PROMOTED}}, [4, 5, 6, 7]),
        ({"version": 1}, [1, 4, 5, 7]),
        ({"version": 2}, [2, 5, 6]),
        ({"version": 9}, []),
        ({"stage": "staging"}, [4, 5, 6]),
        ({"stage": "production"}, [6, 7]),
        ({"stage": "product"}, []),
        ({"stage": CANDIDATE}, [1, 2, 3, 4, 5]),
        ({"stage": CANDIDATE.lower()}, []),
        ({"version": 1, "kinds": (Kind.PROMOTED,)}, [4, 5]),
        ({"stage": "staging", "newest": 1}, [6]),
        ({"until": START, "newest": 1}, [4]),
        ({"until": START, "stage": "staging"}, [4]),
    ],
)
def test_of_a_history_only_what_was_asked_for_oldest_first(story, only, found):
    assert seqs(story.entries("churn", **only)) == found


def test_one_version_is_not_found_by_the_number_of_another(state, make):
    make.register(state.ledger, 1, 11, 12)
    assert seqs(state.ledger.entries("churn", version=1)) == [1]
    assert seqs(state.ledger.entries("churn", version=11)) == [2]


def test_text_that_looks_like_a_move_is_none(state, make):
    make.register(state.ledger, 1)
    state.ledger.append(note('"target":"staging"', data={"version": 2, "target": "staging"}))
    assert state.ledger.entries("churn", stage="staging") == []


def test_entries_of_another_model_are_not_told(story, make):
    make.register(story, 1, model="fraud")
    assert seqs(story.entries("fraud", version=1, newest=5)) == [1]
    assert seqs(story.entries("fraud", stage="staging")) == []


def test_standings_of_a_moment_are_those_that_its_entries_tell(story):
    assert dict(story.standings("churn", START - timedelta(1)).places) == {}
    assert dict(story.standings("churn", START).places) == {1: "staging", 2: CANDIDATE, 3: CANDIDATE}
    assert story.standings("churn", START + timedelta(1)) == story.standings("churn")


# --- verifying ------------------------------------------------------------------------------------------------------


def test_whole_chains_hold_and_give_their_heads(story, make):
    make.register(story, 1, model="fraud")
    found = story.verify()
    assert (found.holds, found.entries) == (True, 8)
    assert [(head.model, head.seq) for head in found.heads] == [("churn", 7), ("fraud", 1)]
    assert found.heads[0].hash == story.entries("churn")[-1].hash
    assert story.verify("fraud").heads == found.heads[1:]
    assert story.verify("unknown") == Verification()


def test_recorded_heads_are_looked_for_in_their_chains(story, make):
    early = [Head("churn", e.seq, e.hash) for e in story.entries("churn")][2:3]
    assert story.verify(None, early).holds
    other = Head("churn", 3, "0" * 64)
    assert [(b.model, b.seq) for b in story.verify(None, [other]).breaks] == [("churn", 3)]
    gone = Head("gone", 4, "0" * 64)
    assert [(b.model, b.seq) for b in story.verify(None, [*early, gone]).breaks] == [("gone", 0)]
    assert story.verify("churn", [*early, gone]).holds


def test_registration_seals_the_whole_version(state, make):
    entry = state.ledger.register(make.version(7), make.registered(7, data={"notes": {"saved": 3}}))
    assert entry.draft.data["notes"] == {"saved": 3}
    assert entry.draft.data["version"] == facts(make.version(7))
