"""deploy: tell an endpoint's server what to serve, and wait until it does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from mlplatform.domain.counts import SHADOW
from mlplatform.domain.endpoint import Endpoint, Tls
from mlplatform.domain.ladder import STANDBY
from mlplatform.domain.ledger import Actor
from mlplatform.domain.placement import Choice, Placement
from mlplatform.domain.policy import Policy
from mlplatform.domain.routes import CaptureRule, Route, Routes
from mlplatform.domain.server_settings import SettingChange
from mlplatform.domain.sharing import joining
from mlplatform.domain.steps import Bake
from mlplatform.domain.use import Use
from mlplatform.domain.version import Version
from mlplatform.errors import ChangedBytes, UnknownName, UsageError
from mlplatform.flows import access, placing
from mlplatform.flows.live import running
from mlplatform.flows.sound import demand_bytes
from mlplatform.flows.world import World
from mlplatform.ports.extensions import ServerSpec, ServerState, TlsFiles

IN_EFFECT_SECONDS = 30.0
CANARY = "canary"
"""The arm of a version that gets a share of the requests."""


def start_server(world: World, policy: Policy, stage: str) -> ServerState:
    """The endpoint's server, started if it does not run, with the settings of the policy, and told whose tokens
    hold."""
    endpoint = _endpoint(policy, stage)
    access.tell(world, endpoint.name)
    desired = server_spec(world, policy, endpoint)
    if moved := moved_away(world, endpoint):
        world.progress(f"{moved}; it is started again here")
    if changes := setting_changes(world, policy, endpoint):
        world.progress(f"the server of endpoint {endpoint.name} is told other settings: {listed(changes)}")
    if kept := kept_guards(world, policy, endpoint):
        world.progress(f"{kept}; {to_open(policy, stage)}")
    return placing.start(world, policy, stage, desired)


def move_server(world: World, policy: Policy, stage: str, target: Use, actor: Actor) -> ServerState:
    """Let the endpoint's server run on a target that somebody chose, from now on. It answers on the same port, with
    what it answers with now. Raises Refused where the policy does not leave that open, UnknownName, UsageError."""
    endpoint = _endpoint(policy, stage)
    placing.demand_open(world, policy, endpoint, target)
    access.tell(world, endpoint.name)
    choice = Placement(target, Choice(actor, world.clock.now())) if endpoint.leaves_target_open else None
    return placing.start(world, policy, stage, server_spec(world, policy, endpoint), choice)


def server_spec(world: World, policy: Policy, endpoint: Endpoint) -> ServerSpec:
    """The server that a policy wants for an endpoint."""
    tls = endpoint.tls
    return ServerSpec(
        endpoint.name,
        world.documents.folder(endpoint.name),
        endpoint.host,
        endpoint.port,
        endpoint.workers,
        limits=endpoint.limits,
        access_log=endpoint.log == "access",
        auth=endpoint.demands_tokens,
        tls=tls_files(world, policy, tls) if tls else None,
        behind_proxy=endpoint.behind_proxy,
        bundles=world.bundles.folder,
    )


def tls_files(world: World, policy: Policy, tls: Tls) -> TlsFiles:
    """Where the files are that a policy names."""
    place = partial(world.beside, policy)
    return TlsFiles(place(tls.cert), place(tls.key), place(tls.ca) if tls.ca else None)


def setting_changes(world: World, policy: Policy, endpoint: Endpoint) -> tuple[SettingChange, ...]:
    """What the policy says otherwise by now than the server that runs was told; nothing where none runs."""
    return placing.target(world, endpoint).changes(server_spec(world, policy, endpoint))


def is_too_lax(world: World, policy: Policy, endpoint: Endpoint) -> bool:
    """Whether the server runs without tokens or TLS that the policy demands by now."""
    return placing.state(world, endpoint).is_laxer_than(server_spec(world, policy, endpoint))


def listed(changes: Sequence[SettingChange]) -> str:
    return ", ".join(map(str, changes))


def kept_guards(world: World, policy: Policy, endpoint: Endpoint) -> str:
    """Which guards a server keeps that its policy does not want any more; "" where there are none."""
    running, desired = placing.state(world, endpoint).settings, server_spec(world, policy, endpoint)
    if running is None:
        return ""
    more = {"tokens": running.auth > desired.auth, "tls": bool(running.tls_cert) > (desired.tls is not None)}
    kept = " and ".join(name for name, is_kept in more.items() if is_kept)
    told = f"the server of endpoint {endpoint.name} demands more than its policy ({kept}) and goes on so"
    return told if kept else ""


def moved_away(world: World, endpoint: Endpoint) -> str:
    """What is told of a server whose folder is another one by now; "" of others."""
    there = placing.state(world, endpoint).left_at
    told = f"the server of endpoint {endpoint.name} was left behind when the project was moved"
    return f"{told}: it hears nothing any more, and what it captures goes to {there}" if there else ""


def to_open(policy: Policy, stage: str) -> str:
    """The way to a server that demands no more than its policy."""
    words = f"{policy.model} --stage {stage}"
    return f"to open it: mlplatform undeploy {words}, then mlplatform deploy {words}"


def publish(
    world: World,
    policy: Policy,
    stage: str,
    live: Version | None,
    standby: Sequence[Version] = (),
    start: bool = True,
    beside: tuple[Version, Bake] | None = None,
    kept: bool = False,
) -> None:
    """Tell the endpoint's server what to serve and wait until every worker does; raises ServerDidNotFollow.

    `start`: start a server that does not run. Without it a stopped server finds the document when it starts; one that
    was left behind is started again in any case.
    `beside`: a version that is rolled out, and its step; a share of the requests goes to it, or it is the shadow.
    `kept`: the live version answers already, from memory: whatever became of its files, the one beside it must go.
    """
    endpoint = _endpoint(policy, stage)
    for version in (*([live] if live and not kept else []), *standby, *([beside[0]] if beside else [])):
        demand_bytes(world, version)
    split, shadows = _beside(world, policy, stage, endpoint, live, beside)
    document = Routes(
        endpoint=endpoint.name,
        generation=0,
        routes=split or tuple(_route(world, endpoint, v, "live") for v in ([live] if live else [])),
        standby=(*shadows, *(_route(world, endpoint, v, "standby") for v in standby)),
        capture=capture_rule(policy),
        memory_mb=endpoint.memory_mb,
    )
    if document.models and (joined := joins(world, policy, stage)):
        world.progress(joined)
    if start or moved_away(world, endpoint):
        start_server(world, policy, stage)
    published = world.documents.publish(document.with_code(policy.trust.code_models), policy.model)
    if start or is_running(world, endpoint):
        world.documents.wait_in_effect(endpoint.name, published.generation, IN_EFFECT_SECONDS, policy.model)


def serve_holder(world: World, policy: Policy, stage: str, start: bool = False, alone: bool = False) -> None:
    """Tell the endpoint's server to serve the stage's holder, with the version before it kept warm, and beside it,
    unless it is to answer `alone`, the version that is being rolled out."""
    standings = world.ledger.standings(policy.model)
    versions = {v.number: v for v in world.ledger.versions(policy.model)}
    holder = standings.holder(stage)
    warm = [versions[n] for n, place in standings.places.items() if place == STANDBY]
    standby = [v for v in warm if is_sound(world, v)]
    rolling = None if alone else running(world, policy, stage)
    beside = (versions[rolling[0].version], rolling[1].step) if rolling else None
    live = versions[holder] if holder is not None else None
    publish(world, policy, stage, live, standby, start, beside, kept=alone)


def is_sound(world: World, version: Version) -> bool:
    """Whether its bytes are those that were registered."""
    try:
        world.bundles.verify(version.digest)
    except (ChangedBytes, UnknownName):
        return False
    return True


def is_running(world: World, endpoint: Endpoint) -> bool:
    return placing.state(world, endpoint).running


def has_others(world: World, endpoint: Endpoint, model: str) -> bool:
    """Whether other models answer at the endpoint, too."""
    try:
        routes = world.documents.routes(endpoint.name)
    except ValueError:
        return False
    return routes is not None and any(name != model for name in routes.models)


def joins(world: World, policy: Policy, stage: str) -> str:
    """What becomes of the bare path of an endpoint that answers for one other model alone so far; else ""."""
    endpoint = policy.stage(stage).endpoint
    try:
        routes = world.documents.routes(endpoint.name) if endpoint else None
    except ValueError:
        return ""
    if endpoint is None or routes is None or len(routes.models) != 1 or policy.model in routes.models:
        return ""
    return joining(endpoint.name, routes.models[0], policy.model)


def has_died(world: World, endpoint: Endpoint) -> bool:
    """Whether the server was killed: one that was stopped takes its announcement away."""
    announced = world.documents.folder(endpoint.name) / "server.json"
    return announced.exists() and not is_running(world, endpoint)


def capture_rule(policy: Policy) -> CaptureRule:
    time = [policy.data.time] if policy.data.time else []
    return CaptureRule(
        sample=policy.capture.sample,
        drop_columns=policy.capture.drop_columns,
        context=tuple(dict.fromkeys([*time, *policy.data.context])),
        max_bytes=policy.capture.max_bytes,
    )


# --- small ----------------------------------------------------------------------------------------------------------


def _endpoint(policy: Policy, stage: str) -> Endpoint:
    endpoint = policy.stage(stage).endpoint
    if endpoint is None:
        raise UsageError(
            what=f"stage {stage} of {policy.model} has no endpoint",
            hint=f'Add `endpoint = {{ name = "{policy.model}" }}` to [stages.{stage}] in its policy.',
        )
    return endpoint


def _beside(
    world: World,
    policy: Policy,
    stage: str,
    endpoint: Endpoint,
    live: Version | None,
    beside: tuple[Version, Bake] | None,
) -> tuple[tuple[Route, ...], tuple[Route, ...]]:
    """Routes that share the requests between two versions, or the shadow's among those without traffic."""
    if beside is None or live is None:
        return (), ()
    version, step = beside
    if step.is_shadow:
        return (), (_route(world, endpoint, version, SHADOW),)
    key = policy.stage(stage).rollout.key
    # The newcomer first: a key keeps its version while the share in front grows.
    canary = replace(_route(world, endpoint, version, CANARY), share=step.share, key=key)
    return (canary, replace(_route(world, endpoint, live, "live"), share=1 - step.share, key=key)), ()


def _route(world: World, endpoint: Endpoint, version: Version, arm: str) -> Route:
    path, share = str(world.bundles.path(version.digest)), 1.0 if arm == "live" else 0.0
    return Route(
        version.model,
        version.number,
        version.digest,
        path,
        share,
        arm,
        max_waiting=endpoint.max_waiting_per_model,
    )
