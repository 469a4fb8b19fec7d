"""access: which tokens an endpoint's server honours, told by a file beside its routes.

The tokens are read while the file is locked: of two that tell a server at once, the one that writes last has read last,
so that no revocation is undone by somebody who had looked before it.
"""

from __future__ import annotations

from functools import partial

from mlplatform.domain.access import Grant
from mlplatform.errors import WorldError
from mlplatform.flows.world import World


def grants(world: World) -> tuple[Grant, ...]:
    """Tokens with a scope that hold now, oldest first."""
    now, found = world.clock.now(), []
    for token, sha256 in world.tokens.hashed():
        if token.scopes and not token.why_not(now):
            found.append(Grant(token.id, sha256, token.scopes, token.expires_at))
    return tuple(found)


def tell(world: World, endpoint: str) -> None:
    """Write the endpoint's access list, if it is not what it should be. Raises WorldError."""
    try:
        world.documents.grant(endpoint, partial(grants, world))
    except OSError as error:
        why = f"the server of {endpoint} could not be told which tokens hold: {error.strerror or error}"
        raise WorldError(
            "Free the disk or correct the folder, then run `mlplatform reconcile`.", what=why
        ) from error


def tell_all(world: World) -> None:
    """Write the access lists of all endpoints. Raises WorldError for those that failed, once all were tried."""
    failed: list[WorldError] = []
    for endpoint in world.documents.endpoints():
        try:
            tell(world, endpoint)
        except WorldError as error:
            failed.append(error)
    if failed:
        raise WorldError(failed[0].next_step, what="; ".join(map(str, failed)))


def is_stale(world: World, endpoint: str) -> bool:
    """Whether the server of an endpoint honours other tokens than it should."""
    try:
        known = world.documents.access(endpoint)
    except ValueError:
        return True
    if known is None:
        return True
    now = world.clock.now()
    holding = [g for g in known.grants if g.expires_at is None or g.expires_at > now]
    return set(holding) != set(grants(world))
