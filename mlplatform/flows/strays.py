"""strays: models that an endpoint still answers for, and that no policy gives it any more.

Who took a policy out of the project may mean it or not: such a model is taken out only where somebody names it. One
whose policy names other endpoints by now is taken out once those answer for it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from mlplatform.domain.placement import left_behind
from mlplatform.domain.policy import Policy
from mlplatform.domain.routes import Routes
from mlplatform.domain.use import Use
from mlplatform.flows.difference import Difference, bound
from mlplatform.flows.world import World
from mlplatform.ports.extensions import Target

IN_EFFECT_SECONDS = 30.0
BY_HAND = "serve-"
"""Endpoints of `mlplatform serve`, which no policy names."""


@dataclass(frozen=True)
class Stray:
    endpoint: str
    model: str
    versions: tuple[int, ...]

    @property
    def name(self) -> str:
        return f"{self.endpoint}/{self.model}"


def strays(
    world: World, policies: Mapping[str, Policy], unreadable: Callable[[str], bool] = lambda model: False
) -> list[Stray]:
    """`unreadable`: whether a model may have a policy that cannot be read: nothing is known of it then."""
    wanted = {(e, model) for model, policy in policies.items() for e in _endpoints(policy)}
    named = {endpoint for endpoint, _ in wanted}
    found = []
    for endpoint in world.documents.endpoints():
        routes = _routes(world, endpoint)
        if routes is None or not (endpoint in named or _answers(world, endpoint)):
            continue
        for model, part in routes.parts().items():
            if (endpoint, model) not in wanted and not unreadable(model):
                versions = sorted({route.version for route in (*part.routes, *part.standby)})
                found.append(Stray(endpoint, model, tuple(versions)))
    return found


def differences(world: World, policies: Mapping[str, Policy], found: list[Stray]) -> list[Difference]:
    """What is told of them, and what reconcile does about it."""
    return [_difference(world, policies.get(stray.model), stray) for stray in found]


def take_out(world: World, stray: Stray) -> None:
    """The endpoint answers for the model no more; its other models are left alone. Raises ServerDidNotFollow."""
    routes = _routes(world, stray.endpoint)
    memory_mb = routes.memory_mb if routes else 0
    published = world.documents.publish(Routes(stray.endpoint, 0, (), memory_mb=memory_mb), stray.model)
    if world.documents.workers(stray.endpoint):
        world.documents.wait_in_effect(stray.endpoint, published.generation, IN_EFFECT_SECONDS, stray.model)


def end_if_empty(world: World, policies: Mapping[str, Policy], endpoint: str) -> bool:
    """Stop the server of an endpoint that no policy names and that answers for nobody; whether it was."""
    routes = _routes(world, endpoint)
    named = any(endpoint in _endpoints(policy) for policy in policies.values())
    if named or routes is None or routes.models:
        return False
    for target in _targets(world, endpoint):
        target.stop(world.documents.folder(endpoint))
    return True


def _difference(world: World, policy: Policy | None, stray: Stray) -> Difference:
    numbers = ", ".join(f"{stray.model}@{number}" for number in stray.versions)
    what = f"endpoint {stray.endpoint} still answers for {stray.model} ({numbers})"
    if policy is None:
        repair = f"left to you: bring its policy back, or take it out with `mlplatform undeploy {stray.name}`"
        return Difference(stray.model, f"{what}, which has no policy any more", repair)
    what = f"{what}, whose policy does not name it"
    if waits := [e for e in _endpoints(policy) if not _has(world, e, stray.model)]:
        repair = f"taken out once endpoint {waits[0]} answers for it: `mlplatform deploy {stray.model}`"
        return Difference(stray.model, what, repair)
    return Difference(stray.model, what, "taken out", bound(take_out, world, stray))


def _endpoints(policy: Policy) -> list[str]:
    return [stage.endpoint.name for stage in policy.stages.values() if stage.endpoint]


def _has(world: World, endpoint: str, model: str) -> bool:
    routes = _routes(world, endpoint)
    return routes is not None and bool(routes.part(model).routes)


def _answers(world: World, endpoint: str) -> bool:
    """Whether a server runs for an endpoint that no policy names, but for one that `mlplatform serve` started."""
    folder = world.documents.folder(endpoint)
    return not endpoint.startswith(BY_HAND) and any(
        t.status(folder).running for t in _targets(world, endpoint)
    )


def _targets(world: World, endpoint: str) -> list[Target]:
    """Where the server of an endpoint runs whose policy is gone."""
    known = world.placements.placement(endpoint)
    uses = [known.target, *left_behind(known, known.target)] if known else [Use("local")]
    return [world.build("target", use) for use in uses]


def _routes(world: World, endpoint: str) -> Routes | None:
    """None for a document that is damaged, too: each model's part comes back with its next deployment."""
    try:
        return world.documents.routes(endpoint)
    except ValueError:
        return None
