"""retrain: when a trigger or a schedule asks and the governor allows it, train a challenger on what came true."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from uuid import uuid4

from mlplatform.domain.governor import Permit, Retraining, may_retrain
from mlplatform.domain.policy import Policy
from mlplatform.domain.truth import said_of
from mlplatform.domain.watch import Action, Decision
from mlplatform.errors import MlplatformError
from mlplatform.flows.intake import take_in
from mlplatform.flows.rows import training_end
from mlplatform.flows.world import World, failpoint
from mlplatform.ports.data import Observed
from mlplatform.ports.state import RetrainingRecord

STARTED, REFUSED, WAITS, LIVE, LOST, FAILED, DIED = (
    "started",
    "refused",
    "waits",
    "went live",
    "did not go live",
    "failed",
    "died",
)


@dataclass(frozen=True)
class Retrained:
    """What came of the wish to retrain. `run_id` is None when it was refused or failed."""

    permit: Permit
    record: RetrainingRecord
    run_id: str | None = None
    rows: int = 0
    """Captured and labelled rows the challenger was given beside the project's own data."""


def retrain(
    world: World, policy: Policy, project: Path, cause: str, as_of: datetime, forced: bool = False
) -> Retrained:
    """Run the project's `main` entry point with the captured, labelled rows.

    The caller holds the lease `lease_name(model)` until the challenger is settled: at most one at a time. The newest
    labelled rows, which the evaluation will use, are kept back. Raises TrainingFailed.
    """
    permit = may_retrain(
        past(world.retrainings.history(policy.model)), policy.retrain.governor, as_of, forced
    )
    if not permit.allowed:
        return refuse(world, policy, cause, as_of, permit.because)
    return _train(
        world, policy, project, RetrainingRecord(uuid4().hex, policy.model, as_of, cause, STARTED), permit
    )


def refuse(world: World, policy: Policy, cause: str, as_of: datetime, because: str) -> Retrained:
    """Keep a wish that was not granted, with the reason."""
    record = RetrainingRecord(uuid4().hex, policy.model, as_of, cause, f"{REFUSED}: {because}")
    world.retrainings.save(record)
    return Retrained(Permit(False, because), record)


def as_of(world: World, policy: Policy) -> datetime:
    """Now; where the policy names an event time, the newest captured one."""
    stage = policy.live_stage
    endpoint = policy.stage(stage).endpoint if stage else None
    span = world.observations.span(endpoint.name, policy.data.time) if endpoint else None
    return span[1] if span and policy.data.time else world.clock.now()


def lease_name(model: str) -> str:
    """The lease of a model's retraining, from its start until its challenger is settled."""
    return f"retrain:{model}"


def left_behind(world: World, model: str) -> RetrainingRecord | None:
    """The retraining that was started and never settled. Whoever holds the lease knows that its process is gone."""
    return next((r for r in world.retrainings.history(model) if r.outcome == STARTED), None)


def waiting(world: World, model: str) -> RetrainingRecord | None:
    """The newest retraining, if its challenger waits for the end of a freeze window or of a rollout."""
    newest = world.retrainings.history(model)[-1:]
    return newest[0] if newest and newest[0].outcome.startswith(WAITS) else None


def bury(world: World, record: RetrainingRecord) -> None:
    """A retraining whose process died before its training ended counts neither as an answer nor as a loss."""
    world.retrainings.save(replace(record, outcome=f"{DIED}: its process ended before its training did"))


def unanswered(world: World, model: str) -> Decision | None:
    """The newest window's wish to retrain, unless it was answered: a crash in between must not lose it.

    A wish whose retraining died is tried once more.
    """
    newest = world.windows.recent(model, 1)
    return newest[0][1] if newest and is_unanswered(world, model, newest[0][1]) else None


def is_unanswered(world: World, model: str, decision: Decision) -> bool:
    """Whether a decision is a wish to retrain that no retraining has answered yet."""
    if decision.action is not Action.RETRAIN:
        return False
    answers = [r for r in world.retrainings.history(model) if r.at >= decision.at]
    died = [r for r in answers if r.outcome.startswith(DIED)]
    return len(answers) == len(died) < 2


def settle(
    world: World,
    record: RetrainingRecord,
    version: int | None,
    live: bool,
    because: str,
    waits: bool = False,
) -> RetrainingRecord:
    """Keep what became of a challenger: the governor counts losses. One that waits for the end of a freeze window or
    of a rollout has not lost."""
    outcome = f"{LIVE if live else WAITS if waits else LOST}: {because}"
    settled = replace(record, version=version, outcome=outcome)
    world.retrainings.save(settled)
    return settled


def past(records: Sequence[RetrainingRecord]) -> list[Retraining]:
    """Records as the governor reads them; refused ones and those whose process died did not happen."""
    verdicts = {LIVE: True, LOST: False, FAILED: False}
    return [
        Retraining(r.at, verdicts.get(r.outcome.split(":")[0]))
        for r in records
        if not r.outcome.startswith((REFUSED, DIED))
    ]


def _train(
    world: World, policy: Policy, project: Path, record: RetrainingRecord, permit: Permit
) -> Retrained:
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
    trained = replace(record, run_id=run_id)
    world.retrainings.save(trained)
    failpoint("retrain:trained")
    return Retrained(permit, trained, run_id, rows)


def _extra_data(world: World, policy: Policy, name: str) -> tuple[Path | None, int]:
    observed = extra_rows(world, policy)
    if observed is not None and (left_out := said_of(sum(observed.refused.values()))):
        world.progress(f"{left_out}; their rows are not learnt from")
    if observed is None or observed.rows == 0:
        return None, 0
    path = world.work / f"retrain-{name}.parquet"
    world.tables.write(path, {**observed.columns, policy.data.target: observed.truth})
    return path, observed.rows


def extra_rows(world: World, policy: Policy) -> Observed | None:
    """Captured rows whose truth is known, older than those that are kept for the evaluation."""
    stage = policy.live_stage
    endpoint = policy.stage(stage).endpoint if stage else None
    if endpoint is None:
        return None
    take_in(world, policy, endpoint.name)
    end = None
    if policy.data.evaluate.use == "labelled_window":
        end = training_end(world, policy, endpoint.name)
    return world.observations.read(
        endpoint.name, None, end, policy.data.time, labelled=True, model=policy.model
    )
