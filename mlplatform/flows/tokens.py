"""tokens: who may act under a verified name. The text of a token is seen once, by who made it.

The first token may be made by whoever can write the database, because they could write it there in any case; it must be
an admin's. From then on, for ever, only an admin's token adds and revokes, so that no expiry opens the door again.
"""

from __future__ import annotations

import hmac
import secrets
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from mlplatform.domain.access import model_of, scope_mistake
from mlplatform.domain.duration import duration
from mlplatform.domain.ledger import Actor
from mlplatform.domain.token import ADMIN, ID_BYTES, SECRET_BYTES, Identity, Token, compose, hashed, id_of
from mlplatform.errors import Refused, RefusedToken, UnknownName, UsageError
from mlplatform.flows.world import failpoint
from mlplatform.ports.state import Tokens

LEASE = "tokens"
"""Held while a token is added or revoked."""
NO_TOKEN = hashed("")


@dataclass(frozen=True)
class Issued:
    """A new token. `text` is shown once and kept nowhere; empty for one that was only planned."""

    token: Token
    text: str = field(repr=False)
    dry_run: bool = False


def identify(tokens: Tokens, now: datetime, text: str, source: str) -> Identity:
    """The owner of a token. Raises MistypedToken, or RefusedToken when it is wrong, revoked or expired."""
    id = id_of(text, source)
    found = tokens.find(id)
    kept = found[1] if found else NO_TOKEN
    right = hmac.compare_digest(kept.encode(), hashed(text).encode())
    if found is None or not right:
        raise RefusedToken(id=id, source=source, why="it was not issued here")
    token = found[0]
    if why := token.why_not(now):
        raise RefusedToken(id=id, source=source, why=why)
    if token.is_machine:
        raise RefusedToken(id=id, source=source, why=f"it is for model servers ({', '.join(token.scopes)})")
    return Identity(Actor(token.owner, verified=True), token.roles, token.id)


def issue(
    tokens: Tokens,
    now: datetime,
    who: Identity,
    owner: str,
    roles: Sequence[str],
    expires: str | None = None,
    dry_run: bool = False,
    hand_over: Callable[[Issued], object] = lambda issued: None,
    scopes: Sequence[str] = (),
) -> Issued:
    """Make a token. Raises Refused for who may not, UsageError for a name, a role or a scope that is none.

    It is handed over before it holds: a process that dies in between leaves a text that nobody honours, never an
    admin's token whose text nobody saw, which would shut the door for good.
    """
    first = not tokens.all()
    _demand_admin(who, roles if first else None)
    try:
        ends = now + duration(expires) if expires else None
        by = _told(who.actor)
        id, roles, scopes = secrets.token_hex(ID_BYTES), _once(roles), _once(scopes)
        token = Token(id, owner, roles, now, by, ends, scopes=scopes)
    except (ValueError, OverflowError) as error:
        raise UsageError(what=str(error)) from None
    if dry_run:
        return Issued(token, "", dry_run=True)
    text = compose(token.id, secrets.token_hex(SECRET_BYTES))
    issued = Issued(token, text)
    hand_over(issued)
    failpoint("token:handed_over")
    tokens.add(token, hashed(text), first)
    failpoint("token:added")
    return issued


def demand_models(scopes: Sequence[str], known: Iterable[str]) -> None:
    """A scope for a model that nobody has is a slip of the pen. Raises UnknownName with the nearest one."""
    known = set(known)
    for scope in scopes:
        if not scope_mistake(scope) and (model := model_of(scope)) and model not in known:
            raise UnknownName("model", model, known)


def revoke(tokens: Tokens, now: datetime, who: Identity, id: str, dry_run: bool = False) -> Token:
    """End a token at once; an owner may end the own one. Raises Refused, UnknownName."""
    if id.startswith("mlp_"):  # not repeated: a shell's history is enough
        raise UsageError(
            what="that is a token's text, not its id", hint="The id is its part after mlp_: 8 signs."
        )
    if who.token != id:
        _demand_admin(who, None)
    known = {token.id: token for token in tokens.all()}
    if id not in known:
        raise UnknownName("token", id, known)
    admins = {t.id for t in known.values() if ADMIN in t.roles and not t.why_not(now)}
    if admins == {id}:
        hint = "Add another first: mlplatform token add NAME --role admin."
        raise Refused(hint, what=f"without token {id} nobody could add or revoke tokens any more")
    if dry_run:
        return known[id]
    revoked = tokens.revoke(id, now, _told(who.actor))
    failpoint("token:revoked")
    return revoked


def _demand_admin(who: Identity, first_roles: Sequence[str] | None) -> None:
    """`first_roles`: the roles of a token that would be the first; None when there are others."""
    if first_roles is not None:
        if ADMIN not in first_roles:
            raise UsageError(
                what="the first token must be an admin's, or nobody could add another",
                hint="Add it with --role admin.",
            )
        return
    if ADMIN not in who.roles:
        raise Refused(
            "Act with an admin's token, in MLPLATFORM_TOKEN or the file that MLPLATFORM_TOKEN_FILE names.",
            what=f"{_told(who.actor)} may not add or revoke tokens",
        )


def _once(names: Sequence[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(names))


def _told(actor: Actor) -> str:
    return actor.name if actor.verified else f"{actor.name} (unverified)"
