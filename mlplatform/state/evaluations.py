"""Evaluations in SQL. Implements `Evaluations`."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from sqlalchemy import ColumnElement, RowMapping, select

from mlplatform.domain.verdict import Evaluation, Measurement
from mlplatform.state.engine import Database
from mlplatform.state.rows import upsert
from mlplatform.state.tables import evaluations


class SqlEvaluations:
    """Newest first by time; of two at the same moment the one that was saved later."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def save(self, evaluation: Evaluation) -> None:
        row = {f.name: getattr(evaluation, f.name) for f in fields(evaluation)}
        self._database.write(lambda c: upsert(c, evaluations, row, ("id",)))

    def get(self, id: str) -> Evaluation | None:
        return self._newest(evaluations.c.id == id)

    def find(self, bundle_digest: str, data_digest: str) -> Evaluation | None:
        same_data = evaluations.c.data_digest == data_digest
        return self._newest(evaluations.c.bundle_digest == bundle_digest, same_data)

    def latest(self, bundle_digest: str) -> Evaluation | None:
        return self._newest(evaluations.c.bundle_digest == bundle_digest)

    def history(self, bundle_digest: str) -> list[Evaluation]:
        query = select(evaluations).where(evaluations.c.bundle_digest == bundle_digest)
        query = query.order_by(evaluations.c.at, evaluations.c.nr)
        return [_evaluation(row) for row in self._database.read(lambda c: c.execute(query).mappings().all())]

    def _newest(self, *conditions: ColumnElement[bool]) -> Evaluation | None:
        query = select(evaluations).where(*conditions)
        query = query.order_by(evaluations.c.at.desc(), evaluations.c.nr.desc()).limit(1)
        row = self._database.read(lambda c: c.execute(query).mappings().first())
        return _evaluation(row) if row else None


def _evaluation(row: RowMapping) -> Evaluation:
    values: dict[str, Any] = {k: v for k, v in row.items() if k != "nr"}
    measurements = tuple(Measurement(**m) for m in values.pop("measurements"))
    return Evaluation(**values, measurements=measurements)
