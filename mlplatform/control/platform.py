"""Verbs that change something: each a chain of flows under the model's lease."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from uuid import uuid4

from mlplatform.chains import PATIENCE_SECONDS
from mlplatform.control.serving import Serving
from mlplatform.domain.history import step_said
from mlplatform.domain.ledger import Entry
from mlplatform.domain.rollout import Phase, Rollout
from mlplatform.domain.token import Token
from mlplatform.domain.version import Version
from mlplatform.errors import (
    UnknownName,
)
from mlplatform.flows import (
    access,
    approve,
    gc,
    labelling,
    monitor,
    plan,
    promote,
    reconcile,
    register,
    retire,
    retrain,
    rollback,
    strays,
    tokens,
)
from mlplatform.flows.approve import Approved
from mlplatform.flows.difference import Difference, bound
from mlplatform.flows.gc import Collection
from mlplatform.flows.lease import holding
from mlplatform.flows.monitor import Watched
from mlplatform.flows.promote import Outcome, Wish
from mlplatform.flows.retrain import Retrained
from mlplatform.flows.run_named import run_named
from mlplatform.flows.tokens import Issued
from mlplatform.flows.world import failpoint
from mlplatform.ports.data import Labelled
from mlplatform.ports.state import Lease, Schedule
from mlplatform.stats.batch import Array


@dataclass(frozen=True)
class Loop:
    """What one round of watching led to."""

    watched: Watched
    retrained: Retrained | None = None
    promoted: Outcome | None = None
    rolled_back: Entry | None = None
    rollouts: tuple[Rollout, ...] = ()
    steps: tuple[Entry, ...] = ()
    """Of rollouts, taken in this round: what changed the share of a version, or ended a rollout or its probation."""
    then: tuple[str, ...] = ()
    """Of a dry run: what would be done, a sentence each."""


class Platform(Serving):
    """Everything `mlplatform` can do, on the project that holds the working directory."""

    # --- from a run to a version ----------------------------------------------------------------------------------

    def train(
        self, model: str, parameters: Mapping[str, str] | None = None, project_folder: Path | None = None
    ) -> str:
        """Run the project's `main` entry point as a tracked run; its run id."""
        log = self.world.work / f"train-{uuid4().hex[:8]}.log"
        folder = project_folder or self._wiring.project(self.policy(model))
        return self.world.runs.train(folder, parameters or {}, model, log)

    def register(self, model: str, run_id: str, cause: str = "manual") -> Version:
        named = run_named(self.world, self.policy(model).model, run_id)
        with self._chains.changing(model) as policy:
            return register.register(self.world, policy.model, named, self.actor, cause, policy.trust)

    def compress(self, ref: str, steps: Sequence[str] = ()) -> Version:
        parent = self.version(ref)
        with self._chains.changing(parent.model) as policy:
            return register.compress(self.world, parent, register.techniques(policy, steps), self.actor)

    # --- stages ---------------------------------------------------------------------------------------------------

    def check(self, ref: str, stage: str) -> Outcome:
        """What `promote` would say, without changing anything."""
        return self.promote(ref, stage, "check", dry_run=True)

    def approve(self, ref: str, stage: str, reason: str, dry_run: bool = False) -> Approved:
        """Say yes to a version for a stage: to its bytes, the evidence and the policy as they are now."""
        version = self.version(ref)
        if dry_run:
            policy = self.policy(version.model)
            return approve.approve(self.world, policy, version, stage, self.identity, reason, dry_run)
        with self._chains.changing(version.model) as policy:
            return approve.approve(self.world, policy, version, stage, self.identity, reason)

    def reject(self, ref: str, reason: str) -> Entry:
        """Take a version out for good, before it goes live."""
        version = self.version(ref)
        with self._chains.changing(version.model) as policy:
            return approve.reject(self.world, policy, version, self.actor, reason)

    def promote(
        self, ref: str, stage: str, reason: str, break_glass: bool = False, dry_run: bool = False
    ) -> Outcome:
        """Put a version into a stage if gates and approvals allow it, and bring it into service."""
        version = self.version(ref)
        roles = self.identity.roles
        wish = Wish(version, stage, self.actor, reason, break_glass, dry_run, roles)
        if dry_run:
            return promote.promote(self.world, self.policy(version.model), wish)
        expected = self.world.ledger.standings(version.model).holder(stage)
        with self._chains.changing(version.model) as policy:
            self._chains.demand_holder(version, stage, expected)
            return self._chains.promote(policy, wish)

    def rollback(self, model: str, stage: str | None, reason: str, to: int | None = None) -> Entry:
        """Also while the model's policy file has mistakes: then by the policy as it was at the model's last change. A
        version that was rolled back itself returns only where it is named."""
        with self._chains.changing(model, back=True) as policy:
            chosen = stage or policy.live_stage or policy.ladder.stages[-1]
            named = to is not None
            return rollback.rollback(self.world, policy, chosen, self.actor, reason, to, named=named)

    def retire(self, ref: str, reason: str) -> Entry:
        """Take a version out that nobody needs: from a stage without an endpoint, or from among the candidates."""
        version = self.version(ref)
        with self._chains.changing(version.model) as policy:
            return retire.retire(self.world, policy, version, self.actor, reason)

    # --- watching and feeding back --------------------------------------------------------------------------------

    def label(self, endpoint: str, ids: Array, truth: Array, replacing: bool = False) -> Labelled:
        """Join what came true to what was predicted; labels may come before or after their rows are ingested.

        Of two labels for one row the first stays, or with `replacing` the new one; who replaced it is recorded.
        """
        policy = self.policy(self.endpoint(endpoint).model)
        if not replacing:
            return labelling.join(self.world, policy, endpoint, ids, truth)
        models = sorted(e.model for e in self.endpoints() if e.name == endpoint)
        with ExitStack() as held:
            for model in models:
                held.enter_context(self._chains.changing(model))
            return labelling.correct(self.world, policy, endpoint, models, ids, truth, self.actor)

    def monitor(self, model: str, until: datetime | None = None, act: bool = True) -> Loop:
        """Read the windows that are due and, with `act`, do what they ask for: retrain, promote, roll back."""
        if not act:
            return self._look_ahead(model, until)
        with self._chains.changing(model, by_itself=True) as policy:
            endpoint = policy.stage(self._endpoint_stage(policy, None)).endpoint
            assert endpoint is not None
            watched = monitor.monitor(self.world, policy, endpoint.name, until)
            taken_back = self._chains.tend_rollouts(policy)
            steps = tuple(step for step in self._chains.steps_taken(model) if step != taken_back)
        failpoint("monitor:decided")
        if watched.windows:
            self._chains.show_windows(policy)
        retrained, outcome = None, None
        if not taken_back:
            self._chains.take_up(policy)
            if wish := retrain.unanswered(self.world, model):
                retrained, outcome = self._chains.retrain(policy, f"trigger: {wish.because}", wish.at)
        active = tuple(self.world.deployments.active(model))
        return Loop(watched, retrained, outcome, taken_back, active, steps)

    def roll_out(self, model: str) -> Entry | None:
        """Take the steps of the model's rollouts that are due, and look at probation; the entry that took a version
        back, if one did."""
        with self._chains.changing(model, by_itself=True) as policy:
            return self._chains.tend_rollouts(policy)

    def _take_steps(self, model: str) -> tuple[Entry, ...]:
        """The steps of the model's rollouts that were due."""
        with self._chains.changing(model, by_itself=True) as policy:
            self._chains.tend_rollouts(policy, probation=False)
            return self._chains.steps_taken(model)

    def report(self, model: str, into: Path) -> Path:
        """The HTML report of the newest windows as a file, and beside the live version's run in MLflow."""
        policy = self.policy(model)
        page = self._wiring.monitoring_page(policy)
        into.parent.mkdir(parents=True, exist_ok=True)
        into.write_text(page, encoding="utf-8")
        self._chains.show_windows(policy)
        return into

    def _look_ahead(self, model: str, until: datetime | None) -> Loop:
        policy = self.policy(model)
        endpoint = policy.stage(self._endpoint_stage(policy, None)).endpoint
        assert endpoint is not None
        planned = plan.watching(self.world, policy, endpoint.name, until)
        rollouts = tuple(self.world.deployments.active(model))
        return Loop(planned.watched, rollouts=rollouts, then=planned.then)

    def retrain(
        self, model: str, cause: str = "manual", forced: bool = True
    ) -> tuple[Retrained, Outcome | None]:
        """Train a challenger on what was captured and let it climb as far as the stages' `auto` says."""
        policy = self.policy(model)
        return self._chains.retrain(policy, cause, self._as_of(policy), forced)

    # --- keeping it true ------------------------------------------------------------------------------------------

    def reconcile(self, model: str) -> list[Difference]:
        """Repair what differs between ledger, MLflow, bundles and servers, and go on with what stopped half-way."""
        policy = self.policy(model)
        with self._chains.alone(model):
            found = reconcile.reconcile(self.world, policy)
            own = [stray for stray in self.strays() if stray.model == model]
            told = strays.differences(self.world, self.policies, own)
            found += [reconcile.mended(self.world, difference) for difference in told]
        if any(r.phase is not Phase.PROBATION for r in self.world.deployments.active(model)):
            found += [self._step_due(step) for step in self._take_steps(model)]
        return [*found, *self._chains.take_up(policy)]

    def _step_due(self, step: Entry) -> Difference:
        """A step that was taken, told as what it was: something that stood out."""
        of, stage = f"{step.draft.model}@{step.draft.version}", step.draft.stage
        what = f"a step of the rollout of {of} into {stage} was due"
        return Difference(step.draft.model, what, step_said(step), bound(self.roll_out, step.draft.model))

    def gc(self, dry_run: bool = False) -> Collection:
        """Free the bytes that nothing protects, of all models at once: bundles may be shared. Raises BadPolicy where
        one is unreadable: it may protect some."""
        self._wiring.read.demand_all()
        if dry_run:
            return gc.plan(self.world, self.policies)
        with self._chains.changing_all():
            return gc.collect(self.world, self.policies, self.actor)

    # --- who may act ----------------------------------------------------------------------------------------------

    def add_token(
        self,
        owner: str,
        roles: Sequence[str] = (),
        expires: str | None = None,
        dry_run: bool = False,
        hand_over: Callable[[Issued], object] = lambda issued: None,
        scopes: Sequence[str] = (),
    ) -> Issued:
        """A new token, with its text, which `hand_over` gets before it holds. The first one must be an admin's; then
        only admins add them."""
        if scopes:
            tokens.demand_models(scopes, {*self.policies, *self.world.ledger.models()})
        with self._alone_with_tokens(dry_run):
            now, known = self.world.clock.now(), self.world.tokens
            made = tokens.issue(known, now, self.identity, owner, roles, expires, dry_run, hand_over, scopes)
            if not dry_run:
                access.tell_all(self.world)
            return made

    def revoke_token(self, id: str, dry_run: bool = False) -> Token:
        """End a token at once; open approvals that were given with it are void then."""
        with self._alone_with_tokens(dry_run):
            revoked = tokens.revoke(self.world.tokens, self.world.clock.now(), self.identity, id, dry_run)
            if not dry_run:
                access.tell_all(self.world)
            return revoked

    def _alone_with_tokens(self, dry_run: bool) -> AbstractContextManager[Lease | None]:
        if dry_run:
            return nullcontext()
        return holding(self.world.leases, tokens.LEASE, self.owner, patience=PATIENCE_SECONDS)

    def run_job(self, schedule: Schedule) -> str:
        """What a schedule's firing does; one line for the log."""
        verbs: dict[str, Callable[[], str]] = {
            "monitor": lambda: _loop_line(self.monitor(schedule.model)),
            "retrain": lambda: (
                self.retrain(schedule.model, f"schedule: {schedule.name}", False)[0].record.outcome
            ),
            "reconcile": lambda: f"{len(self.reconcile(schedule.model))} differences",
        }
        if schedule.verb not in verbs:
            raise UnknownName("job", schedule.verb, verbs)
        return verbs[schedule.verb]()


def _loop_line(loop: Loop) -> str:
    parts = [f"{len(loop.watched.windows)} windows"]
    if loop.watched.windows:
        parts.append(loop.watched.windows[-1][1].action.value)
    parts += [step_said(step) for step in loop.steps]
    if refused := loop.watched.refused_labels.labels:
        parts.append(f"{refused} labels refused")
    if loop.retrained:
        parts.append(f"retraining {loop.retrained.record.outcome}")
    if loop.rolled_back:
        parts.append(f"rolled back to {loop.rolled_back.draft.version}")
    return ", ".join(parts)
