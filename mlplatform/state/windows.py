"""Windows with their decisions, and retrainings, in SQL. Implements `Windows` and `Retrainings`."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from sqlalchemy import RowMapping, select

from mlplatform.domain.verdict import Measurement
from mlplatform.domain.watch import Action, Decision, Signal, State, Window
from mlplatform.ports.state import RetrainingRecord
from mlplatform.state.engine import Database
from mlplatform.state.rows import upsert
from mlplatform.state.tables import retrainings, windows


class SqlWindows:
    """A window is known by model, endpoint and start."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def save(self, window: Window, decision: Decision) -> None:
        row = {
            "model": window.model,
            "endpoint": window.endpoint,
            "start": window.start,
            "end": window.end,
            "version": window.version,
            "rows": window.rows,
            "labelled": window.labelled,
            "signals": window.signals,
            "action": decision.action.value,
            "because": decision.because,
            "decided_at": decision.at,
        }
        self._database.write(lambda c: upsert(c, windows, row, ("model", "endpoint", "start")))

    def recent(self, model: str, count: int) -> list[tuple[Window, Decision]]:
        query = select(windows).where(windows.c.model == model)
        query = query.order_by(windows.c.start.desc(), windows.c.endpoint.desc()).limit(count)
        rows = self._database.read(lambda c: c.execute(query).mappings().all())
        return [(_window(row), _decision(row)) for row in reversed(rows)]


class SqlRetrainings:
    """Every retraining that was asked for, with what became of it."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def save(self, record: RetrainingRecord) -> None:
        self._database.write(lambda c: upsert(c, retrainings, asdict(record), ("id",)))

    def history(self, model: str) -> list[RetrainingRecord]:
        query = select(retrainings).where(retrainings.c.model == model)
        query = query.order_by(retrainings.c.at, retrainings.c.nr)
        rows = self._database.read(lambda c: c.execute(query).mappings().all())
        return [RetrainingRecord(**{k: v for k, v in row.items() if k != "nr"}) for row in rows]


# --- helpers ------------------------------------------------------------------------------------------------


def _window(row: RowMapping) -> Window:
    return Window(
        model=row["model"],
        endpoint=row["endpoint"],
        start=row["start"],
        end=row["end"],
        version=row["version"],
        rows=row["rows"],
        labelled=row["labelled"],
        signals=tuple(_signal(raw) for raw in row["signals"]),
    )


def _signal(raw: dict[str, Any]) -> Signal:
    measurements = tuple(Measurement(**m) for m in raw["measurements"])
    return Signal(**{**raw, "state": State(raw["state"]), "measurements": measurements})


def _decision(row: RowMapping) -> Decision:
    return Decision(Action(row["action"]), row["because"], row["decided_at"])
