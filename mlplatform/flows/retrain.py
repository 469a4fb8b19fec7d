"""retrain: when a trigger or a schedule asks for it and the governor allows it, train a challenger on what came true."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from uuid import uuid4

from mlplatform.domain.governor import Permit, Retraining, may_retrain
from mlplatform.domain.policy import Policy
from mlplatform.errors import LeaseHeld, MlplatformError
from mlplatform.flows.evaluate import labelled_window
from mlplatform.flows.lease import holding
from mlplatform.flows.world import World, failpoint
from mlplatform.ports import RetrainingRecord

STARTED, REFUSED, LIVE, LOST, FAILED = "started", "refused", "went live", "did not go live", "failed"


@dataclass(frozen=True)
class Retrained:
    """What came of the wish to retrain. `run_id` is None when it was refused or failed."""

    permit: Permit
    record: RetrainingRecord
    run_id: str | None = None
    rows: int = 0
    """Captured and labelled rows the challenger was given beside the project's own data."""


def retrain(
    world: World, policy: Policy, project: Path, cause: str, as_of: datetime, owner: str, forced: bool = False
) -> Retrained:
    """Run the project's `main` entry point with the captured, labelled rows; at most one at a time.

    The newest labelled rows, which the evaluation will use, are kept back. Raises TrainingFailed, LeaseHeld.
    """
    permit = may_retrain(
        past(world.retrainings.history(policy.model)), policy.retrain.governor, as_of, forced
    )
    record = RetrainingRecord(uuid4().hex, policy.model, as_of, cause, STARTED)
    if not permit.allowed:
        return _refuse(world, record, permit)
    try:
        with holding(world.leases, f"retrain:{policy.model}", owner):
            return _train(world, policy, project, record, permit)
    except LeaseHeld as error:
        return _refuse(world, record, Permit(False, f"single flight: {error}"))


def settle(
    world: World, record: RetrainingRecord, version: int | None, live: bool, because: str
) -> RetrainingRecord:
    """Keep what became of a challenger: the governor counts losses."""
    outcome = f"{LIVE if live else LOST}: {because}"
    settled = replace(record, version=version, outcome=outcome)
    world.retrainings.save(settled)
    return settled


def past(records: Sequence[RetrainingRecord]) -> list[Retraining]:
    """Records as the governor reads them; refused ones did not happen."""
    verdicts = {LIVE: True, LOST: False, FAILED: False}
    return [
        Retraining(r.at, verdicts.get(r.outcome.split(":")[0]))
        for r in records
        if not r.outcome.startswith(REFUSED)
    ]


def _train(world: World, policy: Policy, project: Path, record: RetrainingRecord, permit: Permit) -> Retrained:
    world.retrainings.save(record)
    failpoint("retrain:started")
    try:
        extra, rows = _extra_data(world, policy, record.id)
        parameters = {"cause": record.cause, "extra_data": str(extra) if extra else ""}
        log = world.work / f"retrain-{record.id}.log"
        world.progress(f"training {policy.model} with {rows} captured rows beside its own data")
        run_id = world.runs.train(project, parameters, policy.model, log)
    except MlplatformError as error:
        world.retrainings.save(replace(record, outcome=f"{FAILED}: {error}"))
        raise
    failpoint("retrain:trained")
    trained = replace(record, run_id=run_id)
    world.retrainings.save(trained)
    return Retrained(permit, trained, run_id, rows)


def _refuse(world: World, record: RetrainingRecord, permit: Permit) -> Retrained:
    refused = replace(record, outcome=f"{REFUSED}: {permit.because}")
    world.retrainings.save(refused)
    return Retrained(permit, refused)


def _extra_data(world: World, policy: Policy, name: str) -> tuple[Path | None, int]:
    """Captured rows whose truth is known, older than the rows that the evaluation will use."""
    stage = policy.live_stage
    endpoint = policy.stage(stage).endpoint if stage else None
    if endpoint is None:
        return None, 0
    world.observations.ingest(endpoint.name)
    end = None
    if policy.data.evaluate.use == "labelled_window":
        window = labelled_window(world, policy, endpoint.name, None)
        end = window[0] if window else None
    observed = world.observations.read(endpoint.name, None, end, policy.data.time, labelled=True)
    if observed.rows == 0:
        return None, 0
    path = world.work / f"retrain-{name}.parquet"
    world.tables.write(path, {**observed.columns, policy.data.target: observed.truth})
    return path, observed.rows
