"""Verbs that change nothing: what stands where, since when and why, and what would happen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Self
from uuid import uuid4

from mlplatform.chains import Chains
from mlplatform.config.settings import Settings, load_settings
from mlplatform.domain.card import CardFacts
from mlplatform.domain.history import Spell, spells
from mlplatform.domain.ladder import Change, Standings
from mlplatform.domain.ledger import Actor, Entry
from mlplatform.domain.policy import Policy
from mlplatform.domain.rollout import Baking, Rollout
from mlplatform.domain.sharing import invocations, shared
from mlplatform.domain.token import Identity, Token
from mlplatform.domain.trend import Trend
from mlplatform.domain.version import Version
from mlplatform.domain.watch import Decision, Window
from mlplatform.errors import BadPolicy, UnknownName, UsageError
from mlplatform.flows import (
    approve,
    live,
    placing,
    probation,
    reconcile,
    retire,
    retrain,
    review,
    rollback,
    show,
    strays,
    verify,
)
from mlplatform.flows.board import Row, board
from mlplatform.flows.diff import Diff, diff
from mlplatform.flows.difference import Difference
from mlplatform.flows.lease import is_held, owner_name
from mlplatform.flows.strays import Stray
from mlplatform.flows.trend import trend
from mlplatform.flows.verify import Verified
from mlplatform.flows.world import World
from mlplatform.ports.clock import Progress
from mlplatform.ports.data import KeptAside
from mlplatform.ports.extensions import ServerState
from mlplatform.ports.state import Schedules
from mlplatform.store.heads import FileHeads
from mlplatform.wiring import Wiring


@dataclass(frozen=True)
class EndpointState:
    """An endpoint as it stands: its server, what it serves, and what it is waiting for."""

    name: str
    model: str
    stage: str
    server: ServerState
    serving: tuple[str, ...]
    generation: int
    rollout: Rollout | None = None
    baking: Baking | None = None
    """The rollout's step, while it has some to go."""
    others: tuple[str, ...] = ()
    """Models that the server answers for beside this one."""
    target: str = "local"
    """Where the server runs."""
    shared: bool = False
    """Whether policies of other models name it, too."""

    @property
    def named(self) -> str:
        """What asks this model; with other models there, each has its own."""
        return f"{self.name}/{self.model}" if self.others else self.name

    @property
    def path(self) -> str:
        """Where requests in MLflow's protocol go; with other models there, now or soon, each has its own."""
        return invocations(self.model) if self.others or self.shared else "/invocations"


class Looking:
    """What can be asked without holding a lease."""

    def __init__(self, settings: Settings, progress: Progress | None = None) -> None:
        self.settings = settings
        self._wiring = Wiring(settings, progress or (lambda line: None))
        self.owner = owner_name(uuid4().hex[:6])
        self._chains = Chains(self._wiring, self.owner)

    @classmethod
    def open(cls, folder: Path | str = ".", progress: Progress | None = None) -> Self:
        """The platform of the nearest folder upwards with `mlplatform.toml`; raises NoProject."""
        return cls(load_settings(Path(folder)), progress)

    @cached_property
    def world(self) -> World:
        """Ports and adapters, opened on first use."""
        return self._wiring.world

    @property
    def policies(self) -> Mapping[str, Policy]:
        """Policies by model; files with mistakes are left out and told. Raises BadPolicy where none is good."""
        return self._wiring.policies

    @property
    def broken(self) -> tuple[BadPolicy, ...]:
        """The mistakes of the files that are left out; who asks tells them."""
        self._wiring.broken_told = True
        return tuple(broken.error for broken in self._wiring.read.broken)

    @property
    def schedules(self) -> Schedules:
        return self._wiring.schedules

    @property
    def actor(self) -> Actor:
        return self._chains.actor

    @property
    def identity(self) -> Identity:
        """Who acts; raises MistypedToken, RefusedToken, OpenTokenFile."""
        return self._chains.identity

    def tokens(self) -> list[Token]:
        """Oldest first; what is kept of them tells nobody their text."""
        return self.world.tokens.all()

    def policy(self, model: str) -> Policy:
        """Raises UnknownName, BadPolicy."""
        return self._wiring.policy(model)

    def plan_rollback(self, model: str, stage: str | None, to: int | None = None) -> tuple[int, list[Change]]:
        """What `rollback` would do, without changing anything."""
        policy = self._wiring.policy_of_old(model)
        chosen = stage or policy.live_stage or policy.ladder.stages[-1]
        return rollback.plan_rollback(self.world, policy, chosen, to, named=to is not None)

    def plan_retirement(self, ref: str) -> list[Change]:
        """What `retire` would do, without changing anything."""
        version = self.version(ref)
        return retire.plan_retirement(self.world, self.policy(version.model), version)

    def plan_rejection(self, ref: str) -> list[Change]:
        """What `reject` would do, without changing anything."""
        version = self.version(ref)
        return approve.plan_rejection(self.world, self.policy(version.model), version)

    def version(self, ref: str) -> Version:
        """`churn@7`, or the holder of `churn@production`; raises BadVersionRef, UnknownName."""
        return show.version(self.world, self._wiring.read.good, ref)

    def board(self) -> list[Row]:
        """Models by name: who holds their stages, what is going on, what is waited for."""
        return board(self.world, self.policies)

    def history(self, model: str, until: datetime | None = None, stage: str | None = None) -> list[Entry]:
        """Entries of the ledger up to a moment, oldest first, of one stage or all."""
        return show.history(self.world, self.policies, model, until, stage)

    def spells(self, model: str, until: datetime | None = None, stage: str | None = None) -> list[Spell]:
        """Who held a stage or shared its requests, when, and at which endpoint; those without an end last until that
        moment."""
        policy = self.policies.get(model)
        stages = policy.stages if policy else {}
        endpoints = {name: there.endpoint.name for name, there in stages.items() if there.endpoint}
        found = spells(self.history(model, until, stage), endpoints)
        return [spell for spell in found if stage in (None, spell.stage)]

    def answering(self, model: str, moment: datetime, stage: str | None = None) -> list[Spell]:
        """What answered at a moment: the shares of an endpoint make a whole."""
        return [s for s in self.spells(model, moment, stage) if s.until is None and s.endpoint]

    def standings_at(self, model: str, moment: datetime) -> Standings:
        """Where every version stood at a moment."""
        return self.world.ledger.standings(model, moment)

    def verify(self, model: str | None = None, head: Path | None = None) -> Verified:
        """Whether the ledger is what was written, of one model or all, and contains the heads of a file; no policy is
        needed. Raises UnknownName, UsageError for a file of something else."""
        return verify.verify(self.world, model, FileHeads(head) if head else None)

    def card(self, ref: str) -> CardFacts:
        version = self.version(ref)
        policy = self.policy(version.model)
        facts = review.card_facts(self.world, policy, version)
        return replace(facts, frozen=show.frozen(self.world, policy))

    def diff(self, first: str, second: str, everything: bool = False) -> Diff:
        """What differs between two versions, section by section; metrics on the same rows where there are such."""
        versions = self.version(first), self.version(second)
        return diff(self.world, self.policies.get(versions[0].model), *versions, everything)

    def trend(self, model: str, metric: str | None = None) -> Trend:
        """A metric over a model's versions; raises UnknownName, UsageError."""
        show.demand_versions(self.world, self.policies, model)
        return trend(self.world, self.policies.get(model), model, metric)

    def plot_trend(self, found: Trend, into: Path) -> Path:
        """A trend as an image, of the kind that the file's name says; its path."""
        return self._wiring.plot_trend(found, into)

    def endpoints(self) -> list[EndpointState]:
        return [
            self._endpoint_state(policy, stage)
            for policy in self.policies.values()
            for stage in policy.ladder.stages
            if policy.stage(stage).endpoint
        ]

    def endpoint(self, name: str) -> EndpointState:
        """One endpoint, or one model's part in it: `shared/churn`; raises UnknownName."""
        states = self.endpoints()
        endpoint, _, model = name.partition("/")
        found = [e for e in states if e.name == endpoint and model in ("", e.model)]
        if not found:
            known = {named for e in states for named in (e.name, e.named)}
            raise UnknownName("endpoint", name, known, _where_it_answers(name, states))
        return found[0]

    def refused_labels(self) -> dict[str, KeptAside]:
        """Of every endpoint that has some."""
        found = {e.name: self.world.observations.aside(e.name) for e in self.endpoints()}
        return {name: aside for name, aside in found.items() if aside.labels}

    def windows(self, model: str, count: int = 100) -> list[tuple[Window, Decision]]:
        self.policy(model)
        return self.world.windows.recent(model, count)

    def differences(self, model: str) -> list[Difference]:
        policy = self.policy(model)
        busy = is_held(self.world.leases, retrain.lease_name(model), self.world.clock.now())
        left = [] if busy else self._chains.left_retraining(policy)
        own = [stray for stray in self.strays() if stray.model == model]
        return [
            *reconcile.differences(self.world, policy),
            *strays.differences(self.world, self.policies, own),
            *left,
        ]

    def strays(self) -> list[Stray]:
        """Models that an endpoint still answers for, and that no policy gives it; none of those that may have a policy
        which cannot be read."""
        read = self._wiring.read
        return strays.strays(self.world, read.good, lambda model: read.maybe(model) is not None)

    def without_policy(self) -> list[Difference]:
        """What is told of strays whose policy was taken out of the project."""
        good = self._wiring.read.good
        found = [stray for stray in self.strays() if stray.model not in good]
        return strays.differences(self.world, good, found)

    def fails_on_probation(self, rollout: Rollout) -> bool:
        """Whether the server's counters say so; labels are for `monitor`."""
        return bool(probation.counted_facts(self.world, self.policy(rollout.model), rollout).breach)

    def _endpoint_stage(self, policy: Policy, stage: str | None) -> str:
        chosen = stage or policy.live_stage
        if chosen is None or policy.stage(chosen).endpoint is None:
            raise UsageError(
                what=f"{policy.model} has no stage with an endpoint"
                if chosen is None
                else f"{chosen} has no endpoint",
                hint=f"Add endpoint = {{ name = '{policy.model}' }} to a stage of its policy.",
            )
        return chosen

    def _endpoint_state(self, policy: Policy, stage: str) -> EndpointState:
        endpoint = policy.stage(stage).endpoint
        assert endpoint is not None
        try:
            routes = self.world.documents.routes(endpoint.name)
        except ValueError:  # damaged: the server goes on by its last good one, and `reconcile` replaces it
            routes = None
        active = [r for r in self.world.deployments.active(policy.model) if r.stage == stage]
        rolling = live.running(self.world, policy, stage)
        return EndpointState(
            endpoint.name,
            policy.model,
            stage,
            placing.state(self.world, endpoint),
            tuple(f"{r.model}@{r.version}" for r in routes.part(policy.model).routes) if routes else (),
            routes.generation if routes else 0,
            rolling[0] if rolling else active[-1] if active else None,
            rolling[1] if rolling else None,
            tuple(name for name in routes.models if name != policy.model) if routes else (),
            placing.where(self.world, endpoint).use,
            endpoint.name in shared(self.policies.values()),
        )

    def _as_of(self, policy: Policy) -> datetime:
        return retrain.as_of(self.world, policy)


def _where_it_answers(model: str, states: Sequence[EndpointState]) -> str:
    """A hint for who named a model where an endpoint is wanted; "" for a name that is no model's."""
    found = dict.fromkeys(e.named for e in states if e.model == model)
    return f"Model {model} answers at endpoint {' and '.join(found)}." if found else ""
