"""reconcile: ledger, MLflow, bundles and servers are compared; what differs is explained, repaired or recorded."""

from __future__ import annotations

from dataclasses import replace

from mlplatform.domain.endpoint import Endpoint
from mlplatform.domain.ladder import STANDBY, Standings, is_stage
from mlplatform.domain.ledger import MOVES, way_back
from mlplatform.domain.policy import Policy
from mlplatform.domain.retention import FREED, is_collected
from mlplatform.errors import ChangedBytes, MlplatformError, ServerDidNotFollow, UnknownName
from mlplatform.flows import access, deploy
from mlplatform.flows.columns import misspelt
from mlplatform.flows.difference import Difference as Difference
from mlplatform.flows.difference import bound
from mlplatform.flows.lease import is_held
from mlplatform.flows.live import running
from mlplatform.flows.outside import done_outside
from mlplatform.flows.probation import version_of
from mlplatform.flows.project import project
from mlplatform.flows.rollback import finish_rollback
from mlplatform.flows.rollout import resume, unfinished
from mlplatform.flows.sound import demand_evidence
from mlplatform.flows.world import World, failpoint
from mlplatform.ports.state import Intent

FOLLOWS_SECONDS = 2.0
"""How long a server may take for a document before doctor tells of it."""


def differences(world: World, policy: Policy, alone: bool = False) -> list[Difference]:
    """Everything of one model that differs, without changing anything.

    `alone`: the caller holds the model's lease, so that whoever left something half-done is gone.
    """
    return [
        *_half_done(world, policy, alone),
        *done_outside(world, policy, alone),
        *_lagging(world, policy),
        *_bytes(world, policy),
        *_chain(world, policy),
        *_moving(world, policy, alone),
        *_serving(world, policy),
        *_access(world, policy),
        *misspelt(world, policy),
    ]


def reconcile(world: World, policy: Policy) -> list[Difference]:
    """Repair what can be repaired; the differences that were found. One failing repair does not stop the others."""
    world.bundles.sweep()
    found = [mended(world, difference) for difference in differences(world, policy, alone=True)]
    project(world, policy)  # some repairs are entries of the ledger
    return found


def recover(world: World, policy: Policy) -> int:
    """Finish or undo flows that died in the middle; the number of them. Before every verb that changes something."""
    world.bundles.sweep()
    found = _half_done(world, policy, alone=True)
    for difference in found:
        assert difference.mend
        difference.mend()
    return len(found)


def mended(world: World, difference: Difference) -> Difference:
    """The difference, repaired where it can be; one that could not says why."""
    if difference.mend is None:
        return difference
    world.progress(f"{difference.what}: {difference.repair}")
    try:
        difference.mend()
    except MlplatformError as error:
        return replace(difference, repair=f"could not be repaired: {error}", mend=None)
    failpoint("reconcile:mended")
    return difference


# --- what may differ --------------------------------------------------------------------------------------------------


def _half_done(world: World, policy: Policy, alone: bool) -> list[Difference]:
    if not alone and is_held(world.leases, f"change:{policy.model}", world.clock.now()):
        return []  # somebody is at it
    left = [intent for intent in world.intents.left() if intent.model == policy.model]
    found = [_left_intent(world, policy, intent) for intent in left]
    for rollout in unfinished(world, policy):
        what = f"the rollout of {policy.model}@{rollout.version} stopped half-way ({rollout.phase})"
        found.append(Difference(policy.model, what, "brought to its end", bound(resume, world, policy)))
    return found


def _left_intent(world: World, policy: Policy, intent: Intent) -> Difference:
    if intent.flow == "rollback":
        what, mend = "a rollback", bound(finish_rollback, world, policy, intent)
        return Difference(policy.model, f"{what} stopped half-way ({intent.at:%H:%M:%S})", "finished", mend)
    mend = bound(_settle_registration, world, policy, intent)
    what = f"a registration stopped half-way ({intent.at:%H:%M:%S})"
    return Difference(policy.model, what, "undone, or found to be done", mend)


def _settle_registration(world: World, policy: Policy, intent: Intent) -> None:
    """After the commit it is done; before the commit what MLflow was told is taken back."""
    committed = world.ledger.entries(policy.model, key=intent.key)
    if not committed:
        world.registry.discard(policy.model, intent.key)
    world.intents.close(intent.key)


def _lagging(world: World, policy: Policy) -> list[Difference]:
    if policy.model not in dict(world.outbox.due()):
        return []
    what = "MLflow's alias, tags and cards lag behind the ledger"
    return [Difference(policy.model, what, "written", bound(project, world, policy))]


def _bytes(world: World, policy: Policy) -> list[Difference]:
    """Of versions in service, and of those that would return to it."""
    standings, ledger = world.ledger.standings(policy.model), world.ledger
    freed = ledger.entries(policy.model, kinds=FREED)
    moves = ledger.entries(policy.model, kinds=MOVES)
    ways_back = {way_back(standings, moves, stage) for stage in policy.ladder.stages}
    found = []
    for version in world.ledger.versions(policy.model):
        place = standings.places.get(version.number, "")
        if not (is_stage(place) or place == STANDBY or version.number in ways_back):
            continue
        if is_collected(freed, version.number):
            continue  # nothing is left that could have changed
        try:
            world.bundles.verify(version.digest)
            demand_evidence(world, version)
        except (ChangedBytes, UnknownName) as error:
            repair = (
                f"promote, deploy and serve refuse it; `mlplatform register {policy.model} --run {version.run_id}`"
                " makes its bytes again, `mlplatform rollback` brings another version back"
            )
            found.append(Difference(policy.model, f"{version.ref} ({place}): {error}", repair))
    return found


def _chain(world: World, policy: Policy) -> list[Difference]:
    return [
        Difference(policy.model, f"ledger entry {b.seq} {b.why}", "restore the database from a backup")
        for b in world.ledger.verify(policy.model).breaks
    ]


def _serving(world: World, policy: Policy) -> list[Difference]:
    found = []
    standings = world.ledger.standings(policy.model)
    busy = {rollout.endpoint for rollout in unfinished(world, policy)}
    for stage in policy.ladder.stages:
        endpoint, holder = policy.stage(stage).endpoint, standings.holder(stage)
        if endpoint is None or holder is None or endpoint.name in busy:
            continue
        rolling = running(world, policy, stage)
        served = _told_to_serve(world, endpoint.name, policy.model)
        version = version_of(world, policy.model, holder)
        if served is None or version is None:
            continue
        if rolling and served:  # told right, else its rollout were half-done
            why = _not_followed(world, endpoint, policy.model)
        elif served != [version.digest]:
            why = f"endpoint {endpoint.name} is told to serve something other than {version.ref}"
        else:
            why = _warm_in_vain(world, standings, endpoint) or _not_followed(world, endpoint, policy.model)
        if why:
            mend = bound(deploy.serve_holder, world, policy, stage)
            found.append(Difference(policy.model, why, "told again", mend))
        if deploy.has_died(world, endpoint):
            what, mend = (
                f"the server of endpoint {endpoint.name} died",
                bound(deploy.start_server, world, policy, stage),
            )
            found.append(Difference(policy.model, what, "started again", mend))
    return found


def _moving(world: World, policy: Policy, alone: bool) -> list[Difference]:
    """Servers that were being brought to a target by a process that died. Not settled before every verb: a rollback
    must not wait for an engine that is down."""
    if not alone and is_held(world.leases, f"change:{policy.model}", world.clock.now()):
        return []
    found = []
    for stage in policy.ladder.stages:
        endpoint = policy.stage(stage).endpoint
        known = world.placements.placement(endpoint.name) if endpoint else None
        if endpoint and known and not known.settled:
            what = f"the server of endpoint {endpoint.name} was being brought to target {known.target.use}"
            mend = bound(deploy.start_server, world, policy, stage)
            found.append(Difference(policy.model, what, "brought to its end", mend))
    return found


def _access(world: World, policy: Policy) -> list[Difference]:
    """Endpoints that honour other tokens than they should, or run with other settings than their policy says."""
    found = []
    for stage in policy.ladder.stages:
        endpoint = policy.stage(stage).endpoint
        if endpoint is None or endpoint.name not in world.documents.endpoints():
            continue
        if endpoint.demands_tokens and access.is_stale(world, endpoint.name):
            mend = bound(access.tell, world, endpoint.name)
            what = f"endpoint {endpoint.name} was not told which tokens hold"
            found.append(Difference(policy.model, what, "told again", mend))
        if moved := deploy.moved_away(world, endpoint):
            repair = f"started again here, as by `mlplatform deploy {policy.model} --stage {stage}`"
            mend = bound(deploy.start_server, world, policy, stage)
            found.append(Difference(policy.model, moved, repair, mend))
            continue
        if changes := deploy.setting_changes(world, policy, endpoint):
            mend = bound(deploy.start_server, world, policy, stage)
            lax = deploy.is_too_lax(world, policy, endpoint)
            how = "without tokens or TLS that its policy demands" if lax else "otherwise than its policy says"
            what = f"the server of endpoint {endpoint.name} runs {how}: {deploy.listed(changes)}"
            found.append(Difference(policy.model, what, "brought into effect", mend))
        if kept := deploy.kept_guards(world, policy, endpoint):
            found.append(Difference(policy.model, kept, deploy.to_open(policy, stage)))
    return found


def _warm_in_vain(world: World, standings: Standings, endpoint: Endpoint) -> str:
    """Versions kept warm that nobody would go back to; "" when there are none."""
    routes = world.documents.routes(endpoint.name)
    kept = [r.version for r in routes.part(standings.model).standby] if routes else []
    numbers = ", ".join(str(v) for v in kept if standings.places.get(v) != STANDBY)
    told = f"endpoint {endpoint.name} keeps version {numbers} warm, which is out of service"
    return told if numbers else ""


def _not_followed(world: World, endpoint: Endpoint, model: str) -> str:
    """What a running server says of the document it was given; "" when every worker serves it."""
    routes = world.documents.routes(endpoint.name)
    if routes is None or not deploy.is_running(world, endpoint):
        return ""
    try:
        world.documents.wait_in_effect(endpoint.name, routes.generation, FOLLOWS_SECONDS, model)
    except ServerDidNotFollow as error:
        cause = error.facts["cause"]
        return f"the server of endpoint {endpoint.name} does not serve what it was told: {cause}"
    return ""


def _told_to_serve(world: World, endpoint: str, model: str) -> list[str] | None:
    """Digests of the model in the endpoint's document; none in a damaged one, None for an endpoint that was never told
    of any model, and for a model that was taken out on purpose."""
    try:
        routes = world.documents.routes(endpoint)
    except ValueError:
        return []
    if routes is None or model in routes.withdrawn:
        return None
    return [r.digest for r in routes.part(model).routes]
