from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import insert, select, text, update

from mlplatform.errors import DatabaseUnreachable, LeaseLost, UsageError
from mlplatform.state.engine import Database
from mlplatform.state.leases import SqlLeases, demand_lease
from mlplatform.state.tables import chains, leases
from mlplatform.testing.clock import START


def rows(database):
    return database.read(lambda c: c.execute(select(leases.c.name)).scalars().all())


def put(name, until=START):
    return insert(leases).values(name=name, owner="x", fence=1, until=until)


def test_unit_that_raises_changes_nothing(database):
    def half(connection):
        connection.execute(put("a"))
        raise UsageError(what="no")

    with pytest.raises(UsageError):
        database.write(half)
    assert rows(database) == []


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30, deadline=None)
@given(
    moment=st.datetimes(
        min_value=datetime(1970, 1, 2),
        max_value=datetime(9999, 12, 30),
        timezones=st.integers(-23, 23).map(lambda h: timezone(timedelta(hours=h))),
    )
)
def test_every_moment_comes_back_to_the_microsecond_in_utc(database, moment):
    def there_and_back(connection):
        connection.execute(leases.delete())
        connection.execute(put("a", moment))
        return connection.execute(select(leases.c.until)).scalar()

    back = database.write(there_and_back)
    assert back == moment
    assert back.isoformat() == moment.astimezone(UTC).isoformat()


def test_reader_sees_one_moment_although_a_writer_commits_in_between(database, database_url):
    other = Database(database_url)

    def look_twice(connection):
        before = connection.execute(select(leases.c.name)).scalars().all()
        other.write(lambda c: c.execute(put("late")))
        return before, connection.execute(select(leases.c.name)).scalars().all()

    assert database.read(look_twice) == ([], [])
    assert rows(other) == ["late"]
    other.close()


def test_writer_that_waits_too_long_for_another_gets_a_clear_error(database_url):
    holder, waiter = Database(database_url), Database(database_url, lock_wait_seconds=0.2)
    holder.write(lambda c: c.execute(put("a")))
    change = update(leases).where(leases.c.name == "a").values(owner="y")

    def hold(connection):
        connection.execute(change)
        with pytest.raises(DatabaseUnreachable, match="lock"):
            waiter.write(lambda c: c.execute(change))

    holder.write(hold)
    waiter.write(lambda c: c.execute(change))
    holder.close()
    waiter.close()


def test_second_writer_of_a_file_waits_before_it_reads(sqlite_url):
    """A unit that read first would have to start again: SQLite never lets a stale reader become a writer."""
    holder, waiter, runs = Database(sqlite_url), Database(sqlite_url, lock_wait_seconds=0.05), []

    def hold(connection):
        with pytest.raises(DatabaseUnreachable, match="locked"):
            waiter.write(runs.append)

    holder.write(hold)
    assert runs == []
    holder.close()
    waiter.close()


def test_deadlock_is_resolved_by_running_one_of_the_units_again(postgres_url):
    database = Database(postgres_url)
    database.write(lambda c: [c.execute(put(name)) for name in ("a", "b")])
    both_hold_one, runs = threading.Barrier(2), []

    def crossing(first, second):
        def unit(connection):
            runs.append(first)
            connection.execute(update(leases).where(leases.c.name == first).values(fence=leases.c.fence + 1))
            if runs.count(first) == 1:
                both_hold_one.wait(30)
            connection.execute(update(leases).where(leases.c.name == second).values(fence=leases.c.fence + 1))

        return unit

    threads = [threading.Thread(target=database.write, args=(crossing(*p),)) for p in ("ab", "ba")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(runs) == 3
    assert database.read(lambda c: c.execute(select(leases.c.fence)).scalars().all()) == [3, 3]
    database.close()


def test_connection_that_the_server_ended_is_replaced(postgres_url):
    database, runs = Database(postgres_url), []

    def unit(connection):
        runs.append(1)
        if len(runs) == 1:
            connection.execute(text("SELECT pg_terminate_backend(pg_backend_pid())"))
        connection.execute(put("a"))

    database.write(unit)
    assert len(runs) == 2
    assert rows(database) == ["a"]
    database.close()


def test_stale_worker_is_refused_inside_its_own_transaction(database, clock):
    leasing = SqlLeases(database, clock)
    stale = leasing.acquire("retrain:churn", "slow", 60)
    clock.advance(61)
    fresh = leasing.acquire("retrain:churn", "quick", 60)
    chain = insert(chains).values(model="churn", head_seq=0, head_hash="", projected_seq=0)

    def guarded(lease):
        def unit(connection):
            connection.execute(chain)
            demand_lease(connection, lease)

        return unit

    with pytest.raises(LeaseLost):
        database.write(guarded(stale))
    assert database.read(lambda c: c.execute(select(chains)).all()) == []
    database.write(guarded(fresh))


def test_lease_cannot_be_taken_over_while_a_guarded_transaction_runs(postgres_url, clock):
    database = Database(postgres_url)
    lease = SqlLeases(database, clock).acquire("retrain:churn", "slow", 60)
    clock.advance(61)
    impatient = Database(postgres_url, lock_wait_seconds=0.2)

    def unit(connection):
        demand_lease(connection, lease)
        with pytest.raises(DatabaseUnreachable, match="lock"):
            SqlLeases(impatient, clock).acquire("retrain:churn", "quick", 60)

    database.write(unit)
    assert SqlLeases(impatient, clock).acquire("retrain:churn", "quick", 60).fence == lease.fence + 1
    impatient.close()
    database.close()
