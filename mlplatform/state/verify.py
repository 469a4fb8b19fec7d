"""Whole chains of the ledger past the domain's check, as streams: a million rows are never in memory."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields, replace
from datetime import UTC, datetime
from itertools import groupby
from operator import itemgetter
from typing import Any

from sqlalchemy import Column, ColumnElement, Connection, select, type_coerce, union
from sqlalchemy.exc import OperationalError
from sqlalchemy.types import NullType

from mlplatform.domain.chain import Beside, Head, Row, Verification, verify_chain
from mlplatform.domain.version import Version
from mlplatform.state.tables import chains, ledger, versions

MODELS_AT_ONCE, ROWS_AT_ONCE = 500, 1000


def verify(connection: Connection, model: str | None, recorded: Iterable[Head]) -> Verification:
    """One model's chain, or all. A recorded head of a model that is gone is a break, too."""
    kept = list(recorded)
    try:
        return _verify(connection, model, kept)
    except OperationalError as error:
        if "Could not decode" not in str(error.orig):
            raise
    with _any_bytes(connection):
        return _verify(connection, model, kept)


@contextmanager
def _any_bytes(connection: Connection) -> Iterator[None]:
    """SQLite keeps bytes that are no text where text should be: read as something else than what was hashed."""
    driver: Any = connection.connection.driver_connection
    driver.text_factory = lambda raw: raw.decode(errors="backslashreplace")
    try:
        yield
    finally:
        driver.text_factory = str


def _verify(connection: Connection, model: str | None, recorded: Sequence[Head]) -> Verification:
    heads = {head.model: head for head in recorded if model in (None, head.model)}
    names = [model] if model is not None else _models(connection, heads)
    entries, ends, breaks = 0, list[Head](), list[Any]()
    for begin in range(0, len(names), MODELS_AT_ONCE):
        for found in _verified(connection, names[begin : begin + MODELS_AT_ONCE], heads):
            entries += found.entries
            ends += found.heads
            breaks += found.breaks
    return Verification(entries, tuple(ends), tuple(breaks))


def _models(connection: Connection, heads: Iterable[str]) -> list[str]:
    """Every name that any row has: a chain's own row may be what was deleted."""
    everywhere = union(*(select(table.c.model).distinct() for table in (chains, versions, ledger)))
    found = connection.execute(everywhere.order_by("model")).scalars().all()
    return list(dict.fromkeys((*found, *heads)))


def _verified(connection: Connection, names: Sequence[str], heads: dict[str, Head]) -> Iterator[Verification]:
    beside, seen = _beside(connection, names), set[str]()
    for name, rows in groupby(_rows(connection, names), itemgetter(0)):
        seen.add(name)
        yield verify_chain(name, rows, beside[name], heads.get(name))
    for name in names:
        if name not in seen:
            yield verify_chain(name, (), beside[name], heads.get(name))


def _beside(connection: Connection, names: Sequence[str]) -> dict[str, Beside]:
    ends = select(chains.c.model, chains.c.head_seq, chains.c.head_hash).where(chains.c.model.in_(names))
    found = {name: Beside((seq, hash)) for name, seq, hash in connection.execute(ends)}
    facts, places = defaultdict[str, dict[int, Any]](dict), defaultdict[str, dict[int, str]](dict)
    columns = [f.name for f in fields(Version)]
    raw = select(_raw(versions.c.place), *(_raw(versions.c[name]) for name in columns))
    for place, *values in connection.execute(raw.where(versions.c.model.in_(names))):
        version = dict(zip(columns, values, strict=True))
        version["created_at"] = _iso(version["created_at"])
        facts[version["model"]][version["number"]] = version
        places[version["model"]][version["number"]] = place
    return {n: replace(found.get(n, Beside()), versions=facts[n], places=places[n]) for n in names}


def _rows(connection: Connection, names: Sequence[str]) -> Iterator[Row]:
    """Rows as they lie in the database, undecoded, so that nothing is read more kindly than it was written."""
    raw = select(*(_raw(ledger.c[name]) for name in Row._fields))
    query = raw.where(ledger.c.model.in_(names)).order_by(ledger.c.model, ledger.c.seq)
    for part in connection.execute(query, execution_options={"yield_per": ROWS_AT_ONCE}).partitions():
        for model, seq, at, *rest in part:
            yield Row(model, seq, _iso(at), *rest)


def _raw(column: Column[Any]) -> ColumnElement[Any]:
    return type_coerce(column, NullType())


def _iso(at: Any) -> Any:
    """SQLite keeps text, and anything that is not exactly what we write there stays as it is: its hash will differ."""
    if isinstance(at, datetime):
        return at.astimezone(UTC).isoformat()
    if isinstance(at, str) and len(at) == 26 and at[10] == " ":
        return f"{at[:10]}T{at[11:19]}{'' if at[19:] == '.000000' else at[19:]}+00:00"
    return at
