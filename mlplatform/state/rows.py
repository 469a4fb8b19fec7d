"""Statements that both databases know under different roofs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import Column, ColumnElement, Connection, Table, Text, func, type_coerce
from sqlalchemy.dialects import postgresql, sqlite


def insert_or_ignore(connection: Connection, table: Table, row: Mapping[str, Any]) -> bool:
    """Whether the row is new; False when one with the same unique key is there already."""
    insert = _insert(connection, table).values(**row).on_conflict_do_nothing()
    return connection.execute(insert.returning(*table.primary_key)).first() is not None


def upsert(connection: Connection, table: Table, row: Mapping[str, Any], keys: tuple[str, ...]) -> None:
    """Write a row over the one with the same keys."""
    insert = _insert(connection, table).values(**row)
    rest = {name: insert.excluded[name] for name in row if name not in keys}
    connection.execute(insert.on_conflict_do_update(index_elements=list(keys), set_=rest))


def contains(dialect: str, column: Column[Any], text: str) -> ColumnElement[bool]:
    """Whether a text column has `text` in it, upper and lower case told apart, which LIKE is not on SQLite."""
    place = func.strpos if dialect == "postgresql" else func.instr
    return place(type_coerce(column, Text), text) > 0


def _insert(connection: Connection, table: Table) -> Any:
    dialect = postgresql if connection.dialect.name == "postgresql" else sqlite
    return dialect.insert(table)
