"""Commands by which people approve: approve; and who they are: token add, list, revoke."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

import click

from mlplatform.cli import render
from mlplatform.cli.common import dry_run_option, emit, json_option, leave, platform, reason_option

if TYPE_CHECKING:
    from mlplatform.domain.token import Token
    from mlplatform.flows.approve import Approved
    from mlplatform.flows.tokens import Issued


@click.command()
@click.argument("ref")
@click.option("--for", "stage", required=True, help="The stage it may enter.")
@reason_option()
@dry_run_option
@json_option
def approve(ref: str, stage: str, reason: str, dry_run: bool, as_json: bool) -> None:
    """Approve a version for a stage, bound to its bytes, what the gates say of it, and the policy.

    \b
    mlplatform approve churn@7 --for production --reason "looked at the errors"
    """
    approved = platform().approve(ref, stage, reason, dry_run)
    emit(approved, as_json, _approved)
    leave(approved.exit_code)


@click.group()
def token() -> None:
    """Tokens make actors verified. A command reads its token from MLPLATFORM_TOKEN, or from `token_file`."""


@token.command()
@click.argument("name")
@click.option(
    "--role", "roles", multiple=True, help="What its owner may do; `admin` adds and revokes tokens."
)
@click.option(
    "--scope",
    "scopes",
    multiple=True,
    help="What it may ask model servers for: predict:MODEL, labels:MODEL, metrics; `*` is every model.",
)
@click.option("--expires", help="For example 90d; without it the token holds until it is revoked.")
@click.option(
    "--into",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write it to a new file that only you can read, instead of printing it.",
)
@dry_run_option
@json_option
def add(
    name: str,
    roles: tuple[str, ...],
    scopes: tuple[str, ...],
    expires: str | None,
    into: Path | None,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Make a token for a person, or with scopes for a program. It is shown once; only its SHA-256 is kept.

    \b
    mlplatform token add ada --role risk --expires 90d
    mlplatform token add shop --scope predict:churn --into shop.token
    """
    p = platform()
    if dry_run:
        emit(p.add_token(name, roles, expires, dry_run, scopes=scopes), as_json, _issued)
        return
    if into is None:
        p.add_token(
            name, roles, expires, hand_over=lambda issued: emit(issued, as_json, _issued), scopes=scopes
        )
        return
    with _new_file(into) as file:
        issued = p.add_token(
            name, roles, expires, hand_over=lambda issued: _write(file, issued), scopes=scopes
        )
    result = {"token": issued.token, "into": str(into), "dry_run": False}
    emit(result, as_json, lambda _: click.echo(f"{_told(issued.token)}; it is in {into}"))


@token.command("list")
@json_option
def list_tokens(as_json: bool) -> None:
    """Every token ever made: owner, roles, scopes, who made and who revoked it.

    \b
    mlplatform token list
    """
    p = platform()
    now, tokens = p.world.clock.now(), p.tokens()
    holds = [not item.why_not(now) for item in tokens]
    rows = [{"token": item, "holds": good} for item, good in zip(tokens, holds, strict=True)]
    emit(rows, as_json, lambda _: _table(tokens, holds))


@token.command()
@click.argument("id")
@dry_run_option
@json_option
def revoke(id: str, dry_run: bool, as_json: bool) -> None:
    """End a token at once, in model servers within a second. What was approved with it and not promoted is void.

    \b
    mlplatform token revoke 3f9a0c12
    """
    word = "would be revoked" if dry_run else "is revoked"
    emit(
        platform().revoke_token(id, dry_run),
        as_json,
        lambda t: click.echo(f"token {t.id} of {t.owner} {word}"),
    )


def _approved(item: Approved) -> None:
    word = {"done": "approved", "refused": "refused", "error": "error"}[item.status]
    told = f"would be {word}" if item.dry_run else word
    click.echo(f"{item.version.ref} for {item.stage}: {told} ({item.because})")
    render.findings(item.findings)
    if item.status == "done":
        render.approvals(item.tally)


@contextmanager
def _new_file(path: Path) -> Iterator[TextIO]:
    """A file that nobody else can read, before anything is in it; gone again when the token is not made."""
    from mlplatform.errors import UsageError

    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except OSError as error:
        raise UsageError("Name a file that is not there yet.", what=f"{path}: {error.strerror}") from None
    try:
        with os.fdopen(descriptor, "w") as file:
            yield file
    except BaseException:
        path.unlink()
        raise


def _write(file: TextIO, issued: Issued) -> None:
    file.write(f"{issued.text}\n")
    file.flush()
    os.fsync(file.fileno())


def _issued(item: Issued) -> None:
    if item.dry_run:
        click.echo(f"would make a {_told(item.token, planned=True)}")
        return
    click.echo(f"{_told(item.token)}; it is shown only now:")
    click.echo(item.text)


def _told(token: Token, planned: bool = False) -> str:
    roles = f", roles {', '.join(token.roles)}" if token.roles else "" if token.scopes else ", no roles"
    scopes = f", scopes {', '.join(token.scopes)}" if token.scopes else ""
    ends = f", until {render.when(token.expires_at)} UTC" if token.expires_at else ""
    return f"token {'' if planned else f'{token.id} '}for {token.owner}{roles}{scopes}{ends}"


def _table(tokens: Sequence[Token], holds: Sequence[bool]) -> None:
    if not tokens:
        click.echo("no token yet; the first one must be an admin's: mlplatform token add NAME --role admin")
        return
    rows = []
    for item, good in zip(tokens, holds, strict=True):
        until = render.when(item.expires_at) if item.expires_at else "-"
        state = "holds" if good else "expired"
        if item.revoked_at:
            state = f"revoked {render.when(item.revoked_at)} by {item.revoked_by}"
        roles, scopes = ", ".join(item.roles) or "-", ", ".join(item.scopes) or "-"
        made = render.when(item.created_at)
        rows.append((item.id, item.owner, roles, scopes, made, item.created_by, until, state))
    render.table(("id", "owner", "roles", "scopes", "made (UTC)", "by", "expires", "state"), rows)
