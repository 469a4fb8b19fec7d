"""reconcile: ledger, MLflow, bundles and servers are compared; what differs is explained, repaired or recorded."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from mlplatform.domain.ladder import STANDBY, is_stage
from mlplatform.domain.ledger import Actor, Draft, Kind
from mlplatform.domain.policy import Policy, Use
from mlplatform.domain.rollout import Phase
from mlplatform.errors import ChangedBytes
from mlplatform.flows.deploy import publish, start_server
from mlplatform.flows.probation import version_of
from mlplatform.flows.rollback import finish_rollback
from mlplatform.flows.world import World
from mlplatform.ports import Intent, Target


@dataclass(frozen=True)
class Difference:
    """Something that is not as the ledger says."""

    model: str
    what: str
    repair: str
    """What reconcile does about it; for a difference that it cannot repair, what a person can do."""
    mend: Callable[[], None] | None = None


def differences(world: World, policy: Policy) -> list[Difference]:
    """Everything of one model that differs, without changing anything."""
    return [
        *_half_done(world, policy),
        *_outside(world, policy),
        *_lagging(world, policy),
        *_bytes(world, policy),
        *_chain(world, policy),
        *_serving(world, policy),
    ]


def reconcile(world: World, policy: Policy) -> list[Difference]:
    """Repair what can be repaired; the differences that were found."""
    found = differences(world, policy)
    for difference in found:
        if difference.mend:
            world.progress(f"{difference.what}: {difference.repair}")
            difference.mend()
    return found


def recover(world: World, policy: Policy) -> int:
    """Finish or undo flows that died in the middle; the number of them. Called before every verb that changes something."""
    found = [d for d in _half_done(world, policy) if d.mend]
    for difference in found:
        assert difference.mend
        difference.mend()
    return len(found)


# --- what may differ --------------------------------------------------------------------------------------------------


def _half_done(world: World, policy: Policy) -> list[Difference]:
    found = []
    for intent in world.intents.left():
        if intent.model != policy.model:
            continue
        if intent.flow == "rollback":
            mend = _bound(finish_rollback, world, policy, intent)
            found.append(
                Difference(
                    policy.model, f"a rollback stopped half-way ({intent.at:%H:%M:%S})", "finished", mend
                )
            )
        else:
            mend = _bound(_settle_registration, world, policy, intent)
            found.append(
                Difference(
                    policy.model, f"a registration stopped half-way ({intent.at:%H:%M:%S})", "settled", mend
                )
            )
    return found


def _settle_registration(world: World, policy: Policy, intent: Intent) -> None:
    """After the commit it is done; before the commit what MLflow was told is taken back."""
    committed = any(e.draft.key == intent.key for e in world.ledger.entries(policy.model))
    if not committed:
        world.registry.discard(policy.model, intent.key)
    world.intents.close(intent.key)


def _outside(world: World, policy: Policy) -> list[Difference]:
    standings = world.ledger.standings(policy.model)
    if not standings.places:
        return []
    outside = world.registry.outside(policy.model)
    found = []
    gone = sorted(set(standings.places) - outside.versions)
    for number in gone:
        what = f"version {number} ({standings.places[number]}) was deleted in MLflow"
        found.append(
            Difference(
                policy.model,
                what,
                "its bundle is kept and still serves; register the run again to see it in MLflow",
            )
        )
    due = dict(world.outbox.due())
    if policy.model in due:
        return found
    for stage in policy.ladder.stages:
        ours, theirs = standings.holder(stage), outside.aliases.get(stage)
        if ours != theirs and ours not in gone:
            found.append(_moved(world, policy, stage, ours, theirs))
    return found


def _moved(world: World, policy: Policy, stage: str, ours: int | None, theirs: int | None) -> Difference:
    what = f"MLflow's alias {stage} names {_name(theirs)}, the ledger says {_name(ours)}"
    if policy.reconcile.outside_moves == "record":
        return Difference(
            policy.model,
            what,
            "recorded in the ledger",
            _bound(_record_move, world, policy, stage, ours, theirs),
        )
    return Difference(
        policy.model, what, "set back", _bound(_note_move, world, policy, stage, ours, theirs, "reverted")
    )


def _record_move(world: World, policy: Policy, stage: str, ours: int | None, theirs: int | None) -> None:
    standings = world.ledger.standings(policy.model)
    _note_move(world, policy, stage, ours, theirs, "recorded")
    if theirs is None or theirs not in standings.places or policy.stage(stage).endpoint:
        return
    changes = policy.ladder.promotion(standings, theirs, stage)
    world.ledger.append(
        Draft(
            policy.model,
            Kind.PROMOTED,
            theirs,
            Actor("mlflow"),
            f"alias {stage} was set in MLflow",
            tuple(changes),
            stage,
        )
    )


def _note_move(
    world: World, policy: Policy, stage: str, ours: int | None, theirs: int | None, done: str
) -> None:
    """The entry makes the model's projection due, so that `project` sets the alias to what the ledger says."""
    reason = f"alias {stage} was moved to {_name(theirs)} in MLflow by somebody; {done}"
    data = {"alias": stage, "found": theirs, "expected": ours}
    world.ledger.append(
        Draft(
            policy.model,
            Kind.OUTSIDE_MOVE,
            theirs or ours or 0,
            Actor("reconcile", True),
            reason,
            stage=stage,
            data=data,
        )
    )


def _lagging(world: World, policy: Policy) -> list[Difference]:
    if policy.model not in dict(world.outbox.due()):
        return []
    return [Difference(policy.model, "MLflow's alias, tags and cards lag behind the ledger", "written", None)]


def _bytes(world: World, policy: Policy) -> list[Difference]:
    standings = world.ledger.standings(policy.model)
    found = []
    for version in world.ledger.versions(policy.model):
        place = standings.places.get(version.number, "")
        if not (is_stage(place) or place == STANDBY):
            continue
        try:
            world.bundles.verify(version.digest)
        except ChangedBytes as error:
            found.append(
                Difference(
                    policy.model,
                    str(error),
                    "promote, deploy and serve refuse it; roll back or register again",
                )
            )
    return found


def _chain(world: World, policy: Policy) -> list[Difference]:
    return [
        Difference(policy.model, f"ledger entry {b.seq} {b.why}", "restore the database from a backup")
        for b in world.ledger.breaks(policy.model)
    ]


def _serving(world: World, policy: Policy) -> list[Difference]:
    found = []
    standings = world.ledger.standings(policy.model)
    busy = {r.endpoint for r in world.deployments.active(policy.model) if r.phase is not Phase.PROBATION}
    for stage in policy.ladder.stages:
        endpoint, holder = policy.stage(stage).endpoint, standings.holder(stage)
        if endpoint is None or holder is None or endpoint.name in busy:
            continue
        version = version_of(world, policy.model, holder)
        routes = world.documents.routes(endpoint.name)
        if routes is None or version is None:
            continue
        served = [r.digest for r in routes.routes]
        if served != [version.digest]:
            what = f"endpoint {endpoint.name} is told to serve something other than {version.ref}"
            found.append(
                Difference(policy.model, what, "told again", _bound(publish, world, policy, stage, version))
            )
        target: Target = world.build("target", Use(endpoint.target))
        folder = world.documents.folder(endpoint.name)
        if (folder / "server.json").exists() and not target.status(folder).running:
            what = f"the server of endpoint {endpoint.name} died"
            found.append(
                Difference(policy.model, what, "started again", _bound(start_server, world, policy, stage))
            )
    return found


def _name(version: int | None) -> str:
    return f"version {version}" if version is not None else "nothing"


def _bound(function: Callable[..., object], *args: object) -> Callable[[], None]:
    def mend() -> None:
        function(*args)

    return mend
