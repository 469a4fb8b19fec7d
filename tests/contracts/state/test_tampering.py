"""Somebody with a SQL prompt: every kind of change to the rows is found, and the first bad row is named."""

from __future__ import annotations

from datetime import timedelta

import pytest
from sqlalchemy import delete, insert, select, text, update

from mlplatform.domain.chain import seal
from mlplatform.domain.ladder import CANDIDATE, Change
from mlplatform.domain.ledger import Actor, Draft, Kind
from mlplatform.state.engine import closing
from mlplatform.state.ledger import SqlLedger
from mlplatform.state.schema import open_database
from mlplatform.state.tables import chains, ledger, versions
from mlplatform.testing.clock import START


@pytest.fixture
def story(database, clock, make):
    """Six entries: three registrations, three promotions; version 3 in staging."""
    ledger = SqlLedger(database, clock)
    make.register(ledger, 1, 2, 3)
    for number in (1, 2, 3):
        clock.advance(1)
        ledger.append(make.promotion(ledger, number, key=f"promote {number}"))
    assert ledger.verify("churn").holds
    return ledger


def first_break(story):
    found = story.verify("churn").breaks
    return found[0].seq, found[0].why


def row(seq):
    return (ledger.c.model == "churn") & (ledger.c.seq == seq)


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("at", START),
        ("kind", "refused"),
        ("version", 3),
        ("actor", "os:eve"),
        ("verified", True),
        ("reason", "better"),
        ("stage", "production"),
        ("stage", None),
        ("data", {"findings": []}),
        ("key", None),
        ("prev_hash", "0" * 64),
        ("hash", "0" * 64),
    ],
)
def test_edited_field_is_found(database, story, column, value):
    database.write(lambda c: c.execute(update(ledger).where(row(5)).values(**{column: value})))
    seq, why = first_break(story)
    assert seq == 5
    assert why in ("was changed after it was written", "does not follow the entry before it")


def test_edited_changes_are_found(database, story):
    changes = (Change(2, CANDIDATE, "production"),)
    database.write(lambda c: c.execute(update(ledger).where(row(5)).values(changes=changes)))
    assert first_break(story) == (5, "was changed after it was written")


@pytest.mark.parametrize(
    ("column", "nonsense"),
    [("kind", "bogus"), ("data", "{"), ("data", '{"findings": []}'), ("changes", "[{}]"), ("changes", "7")],
)
def test_row_that_cannot_be_read_any_more_is_named_and_hides_no_other(database, story, column, nonsense):
    statement = text(f"UPDATE ledger SET {column} = :nonsense WHERE seq = 3")
    database.write(lambda c: c.execute(statement, {"nonsense": nonsense}))
    database.write(lambda c: c.execute(update(ledger).where(row(5)).values(reason="better")))
    assert first_break(story) == (3, "was changed after it was written")
    assert (5, "was changed after it was written") in [(b.seq, b.why) for b in story.verify("churn").breaks]


@pytest.mark.parametrize(
    "change",
    [
        "at = replace(at, ' ', 'T')",
        "at = rtrim(at, '0')",
        "data = data || ' '",
        "verified = 2",
        "version = 'x'",
        "reason = CAST(x'c3' AS TEXT)",
        "reason = x'676f6f64'",
        "key = CAST(x'ff' AS TEXT)",
    ],
)
def test_what_only_sqlite_lets_somebody_write_is_found(sqlite_url, clock, make, change):
    """Also what would be read as the same value: the column's own bytes decide in which order it is found."""
    with closing(open_database(sqlite_url)) as database:
        ledger = SqlLedger(database, clock)
        make.register(ledger, 1, 2, 3)
        database.write(lambda c: c.execute(text(f"UPDATE ledger SET {change} WHERE seq = 2")))
        assert first_break(ledger)[0] == 2


def test_deleted_row_is_found_at_its_successor(database, story):
    database.write(lambda c: c.execute(delete(ledger).where(row(4))))
    assert first_break(story) == (5, "expected entry 4")


def test_deleted_first_row_is_found(database, story):
    database.write(lambda c: c.execute(delete(ledger).where(row(1))))
    assert first_break(story) == (2, "expected entry 1")


def test_cut_tail_is_found(database, story):
    database.write(lambda c: c.execute(delete(ledger).where(ledger.c.seq > 4)))
    seq, why = first_break(story)
    assert seq == 4
    assert why.startswith("the chain should end with entry 6")


def test_cut_tail_is_found_even_with_the_recorded_end_cut_as_well(database, story):
    def cut(connection):
        connection.execute(delete(ledger).where(ledger.c.seq > 4))
        last = connection.execute(select(ledger.c.hash).where(row(4))).scalar()
        connection.execute(update(chains).values(head_seq=4, head_hash=last))

    database.write(cut)
    assert "it stands in" in first_break(story)[1]


def test_emptied_ledger_is_found(database, story):
    database.write(lambda c: c.execute(delete(ledger)))
    assert first_break(story)[1].startswith("the chain should end with entry 6")


def test_deleted_chain_row_is_found(database, story):
    database.write(lambda c: c.execute(delete(chains)))
    assert first_break(story)[1].startswith("the chain should end with entry 0")


def test_inserted_row_is_found_although_it_is_sealed(database, story):
    def slip_in(connection):
        for seq in (6, 5):
            connection.execute(update(ledger).where(row(seq)).values(seq=seq + 1))
        before = connection.execute(select(ledger.c.hash).where(row(4))).scalar()
        forged = seal(Draft("churn", Kind.APPROVED, 2, Actor("os:eve"), "yes"), 5, START, before)
        values = {c.name: None for c in ledger.c} | {
            "model": "churn",
            "seq": 5,
            "at": START,
            "kind": "approved",
            "version": 2,
            "actor": "os:eve",
            "verified": False,
            "reason": "yes",
            "changes": (),
            "data": {},
            "prev_hash": before,
            "hash": forged.hash,
        }
        connection.execute(insert(ledger).values(**values))

    database.write(slip_in)
    assert first_break(story) == (6, "does not follow the entry before it")


def test_reordered_rows_are_found(database, story):
    def swap(connection):
        for old, new in ((4, 99), (5, 4), (99, 5)):
            connection.execute(update(ledger).where(row(old)).values(seq=new))

    database.write(swap)
    assert first_break(story) == (4, "does not follow the entry before it")


@pytest.mark.parametrize(
    ("column", "value"),
    [("digest", "0" * 64), ("author", "os:eve"), ("parent", 1), ("created_at", START + timedelta(1))],
)
def test_edited_version_is_found_at_its_registration(database, story, column, value):
    edit = update(versions).where(versions.c.number == 2).values(**{column: value})
    database.write(lambda c: c.execute(edit))
    seq, why = first_break(story)
    assert seq == 2
    assert why.startswith(f"registered version 2 with {column}")


def test_row_that_was_given_to_another_model_is_missed_here_and_found_there(database, story):
    database.write(lambda c: c.execute(update(ledger).where(row(6)).values(model="fraud")))
    found = [(b.model, b.seq, b.why) for b in story.verify().breaks]
    assert ("fraud", 6, "expected entry 1") in found
    assert found[0][:2] == ("churn", 5)


def test_every_broken_chain_is_named_and_one_model_can_be_looked_at_alone(database, story, make):
    make.register(story, 1, 2, model="fraud")
    database.write(lambda c: c.execute(update(ledger).where(ledger.c.seq == 2).values(reason="better")))
    why = "was changed after it was written"
    assert [(b.model, b.seq, b.why) for b in story.verify().breaks] == [("churn", 2, why), ("fraud", 2, why)]
    assert [b.model for b in story.verify("fraud").breaks] == ["fraud"]
    assert story.verify().entries == 8


def test_older_copy_of_every_table_is_found_by_the_heads_that_were_recorded(database, story):
    older = kept(database)
    story.append(Draft("churn", Kind.APPROVED, 3, Actor("os:ada"), "fine"))
    heads = story.verify().heads
    put_back(database, older)
    assert story.verify().holds
    ((seq, why),) = [(b.seq, b.why) for b in story.verify(None, heads).breaks]
    assert (seq, why[:52]) == (6, "the chain no longer contains the recorded entry 7, h")


def test_model_of_which_nothing_is_left_is_found_by_the_heads_that_were_recorded(database, story):
    heads = story.verify().heads
    put_back(database, {table: [] for table in (chains, versions, ledger)})
    assert story.verify().holds
    (found,) = story.verify(None, heads).breaks
    assert (found.model, found.seq) == ("churn", 0)


def kept(database):
    return database.read(
        lambda c: {t: c.execute(select(t)).mappings().all() for t in (chains, versions, ledger)}
    )


def put_back(database, tables):
    def unit(connection):
        for table, rows in tables.items():
            connection.execute(delete(table))
            for each in rows:
                connection.execute(insert(table).values(**each))

    database.write(unit)


def test_version_moved_past_the_ledger_is_found(database, story):
    moved = update(versions).where(versions.c.number == 2).values(place="production")
    database.write(lambda c: c.execute(moved))
    seq, why = first_break(story)
    assert (seq, why) == (6, "leaves version 2 in RETIRED, but it stands in production")


def test_deleted_version_is_found(database, story):
    database.write(lambda c: c.execute(delete(versions).where(versions.c.number == 2)))
    assert first_break(story)[1] == "leaves version 2 in RETIRED, but it stands in no place"


def test_rewritten_history_that_cannot_have_happened_is_found(database, story):
    def rewrite(connection):
        changes = (Change(2, "staging", "production"),)
        connection.execute(update(ledger).where(row(5)).values(changes=changes))

    database.write(rewrite)
    assert any("cannot be replayed" in b.why for b in story.verify("churn").breaks)
