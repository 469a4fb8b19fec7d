"""Where an endpoint's server runs, and who said so: what a policy leaves open may be chosen by a command."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from mlplatform.domain.endpoint import Endpoint
from mlplatform.domain.ledger import Actor
from mlplatform.domain.use import Use


@dataclass(frozen=True)
class Choice:
    """Somebody chose the target by a command."""

    by: Actor
    at: datetime


@dataclass(frozen=True)
class Placement:
    """What an endpoint's server was last started on. It lies in the endpoint's folder: the models that share a server
    have ledgers of their own, and one server."""

    target: Use
    choice: Choice | None = None
    """None where the policy said it, or nobody did."""
    settled: bool = True
    """False while it is being brought there: whoever comes next brings that to its end."""
    before: Use | None = None
    """Where it may still run meanwhile."""

    def encode(self) -> dict[str, Any]:
        return {
            "target": _plain(self.target),
            "choice": self.choice
            and {
                "by": self.choice.by.name,
                "verified": self.choice.by.verified,
                "at": self.choice.at.isoformat(),
            },
            "settled": self.settled,
            "before": self.before and _plain(self.before),
        }

    @classmethod
    def decode(cls, document: Any) -> Placement:
        """Raises ValueError for what is no placement."""
        try:
            chosen, before = document["choice"], document["before"]
            by = chosen and Actor(str(chosen["by"]), bool(chosen["verified"]))
            choice = chosen and Choice(by, datetime.fromisoformat(chosen["at"]))
            settled = document["settled"] is not False
            return cls(_use(document["target"]), choice or None, settled, _use(before) if before else None)
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"no placement: {error}") from error


def wanted(endpoint: Endpoint, known: Placement | None) -> Placement:
    """Where the server should run: as the policy says; where that leaves it open, as somebody chose."""
    if endpoint.leaves_target_open and known is not None and known.choice is not None:
        return Placement(known.target, known.choice)
    return Placement(endpoint.runs_on)


def left_behind(known: Placement | None, to: Use) -> list[Use]:
    """Targets on which a server may still run that is to run on another, the newest first."""
    uses = [known.target, known.before] if known else []
    return [use for use in uses if use is not None and use.use != to.use]


def _plain(use: Use) -> dict[str, Any]:
    return {"use": use.use, "options": dict(use.options)}


def _use(document: Mapping[str, Any]) -> Use:
    return Use(str(document["use"]), dict(document["options"]))
