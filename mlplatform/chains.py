"""What follows what: chains of flows under the model's lease. Flows do not know each other's commands; this does."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from datetime import datetime
from functools import cached_property, partial

from mlplatform.calendar import window_at
from mlplatform.domain import history
from mlplatform.domain.ledger import Actor, Entry
from mlplatform.domain.policy import Policy
from mlplatform.domain.rollout import Phase, Rollout, Step
from mlplatform.domain.token import Identity
from mlplatform.domain.version import Version
from mlplatform.errors import LeaseHeld, MlflowUnreachable, MlplatformError, RolloutRunning, StageConflict
from mlplatform.flows import (
    probation,
    project,
    promote,
    reconcile,
    register,
    retrain,
    rollback,
    rollout,
    rollout_record,
)
from mlplatform.flows.difference import Difference, bound
from mlplatform.flows.lease import holding
from mlplatform.flows.promote import Outcome, Wish
from mlplatform.flows.retrain import Retrained
from mlplatform.flows.world import World, failpoint
from mlplatform.ports.state import Lease, RetrainingRecord
from mlplatform.wiring import Wiring

PATIENCE_SECONDS = 30.0
"""How long a command waits for another one that changes the same model."""

MOST_STEPS = 100
"""More than one command can take."""


class Chains:
    """The verbs' common ground: one change of a model at a time, and what a flow's result asks for next."""

    def __init__(self, wiring: Wiring, owner: str) -> None:
        self._wiring, self.owner = wiring, owner
        self._newest = dict[str, int]()

    @cached_property
    def world(self) -> World:
        return self._wiring.world

    @property
    def actor(self) -> Actor:
        return self.identity.actor

    @property
    def identity(self) -> Identity:
        """Who acts, by the token that was given; raises MistypedToken, RefusedToken, OpenTokenFile."""
        return self._wiring.identity()

    @contextmanager
    def changing(self, model: str, by_itself: bool = False, back: bool = False) -> Iterator[Policy]:
        """Around every verb that changes something: one at a time, half-done flows settled first, MLflow told last.

        `back`: a rollback, which a half-edited policy must not stop.
        A token that does not hold ends a verb before it touches anything; `by_itself`: but not the watch over what
        is live, which acts under its own name.
        """
        policy = self._wiring.policy_of_old(model) if back else self._wiring.policy(model)
        if not by_itself:
            self._wiring.identity()
        with self.alone(model):
            self._wiring.keep(policy)
            self._newest[model] = max((e.seq for e in self.world.ledger.entries(model, newest=1)), default=0)
            reconcile.recover(self.world, policy)
            try:
                yield policy
            except MlflowUnreachable:
                raise
            except MlplatformError:
                self._show(policy)  # what a dead one had done already may be why this one is refused
                raise
            self._show(policy)

    @contextmanager
    def changing_all(self) -> Iterator[None]:
        """Around what concerns all models, also those without a policy; in one order: two never wait in a ring."""
        policies = self._wiring.policies
        with ExitStack() as stack:
            for model in sorted({*policies, *self.world.ledger.models()}):
                stack.enter_context(self.changing(model) if model in policies else self.alone(model))
            yield

    def alone(self, model: str) -> AbstractContextManager[Lease]:
        name, tell = f"change:{model}", self.world.progress
        return holding(self.world.leases, name, self.owner, patience=PATIENCE_SECONDS, tell=tell)

    def _show(self, policy: Policy) -> None:
        """What was done stands in the ledger, whether or not MLflow can be told now."""
        try:
            project.project(self.world, policy)
        except MlflowUnreachable as error:
            self.world.progress(
                f"{error}; what it shows lags behind until the next command or `mlplatform reconcile`"
            )

    def show_windows(self, policy: Policy) -> None:
        """The monitoring report beside the live version's run, so that it is seen in MLflow's UI, too."""
        project.show_windows(self.world, policy, partial(self._wiring.monitoring_page, policy))

    def demand_holder(self, version: Version, stage: str, expected: int | None) -> None:
        """A promotion was wished against what held the stage then: of several at once exactly one wins."""
        holder = self.world.ledger.standings(version.model).holder(stage)
        if holder not in (expected, version.number):
            raise StageConflict(
                model=version.model, stage=stage, holder=_number(holder), expected=_number(expected)
            )

    def promote(self, policy: Policy, wish: Wish) -> Outcome:
        outcome = promote.promote(self.world, policy, wish)
        if outcome.rollout is None:
            return outcome
        settled = rollout.follow(self.world, policy, outcome.rollout)
        status, because = "done", outcome.because
        if settled.phase is Phase.FAILED:
            status, because = "error", settled.because
        elif settled.phase is Phase.SHIFTED:
            status, because = "rolling_out", settled.because
        return Outcome(**{**vars(outcome), "status": status, "because": because, "rollout": settled})

    def tend_rollouts(self, policy: Policy, probation: bool = True) -> Entry | None:
        """Take the steps that are due, and with `probation` look at that, too; the entry that took a version back."""
        taken_back = None
        for active in self.world.deployments.active(policy.model):
            if active.phase is not Phase.PROBATION:
                taken_back = self._tend_steps(policy, active) or taken_back
            elif probation:
                taken_back = self._tend_probation(policy, active) or taken_back
        return taken_back

    def steps_taken(self, model: str) -> tuple[Entry, ...]:
        """The steps of the model's rollouts since the change began that is going on."""
        found = self.world.ledger.entries(model, kinds=history.STEPS, newest=MOST_STEPS)
        return history.steps_taken(found, self._newest[model])

    def _tend_steps(self, policy: Policy, active: Rollout) -> Entry | None:
        settled = rollout.follow(self.world, policy, active)
        if settled.phase is not Phase.FAILED:
            return None
        return next(
            iter(self.world.ledger.entries(policy.model, key=rollout_record.failed_key(settled.id))), None
        )

    def _tend_probation(self, policy: Policy, active: Rollout) -> Entry | None:
        step = probation.next_step(self.world, policy, active)
        if step.step is Step.TAKE_BACK:
            actor, why = Actor("monitor", verified=True), f"probation: {step.because}"
            return rollback.rollback(self.world, policy, active.stage, actor, why, active.previous)
        if step.step is Step.CLOSE:
            rollout.advance(self.world, policy, active)
        return None

    def retrain(
        self, policy: Policy, cause: str, as_of: datetime, forced: bool = False
    ) -> tuple[Retrained, Outcome | None]:
        """Training holds no lock but its own: a rollback must not wait for it."""
        self.take_up(policy)
        with self._training(policy) as held:
            if held is not None:
                return retrain.refuse(self.world, policy, cause, as_of, f"single flight: {held}"), None
            folder = self._wiring.project(policy)
            done = retrain.retrain(self.world, policy, folder, cause, as_of, forced)
            if done.run_id is None:
                return done, None
            record, outcome = self._bring_in(policy, done.record)
            return Retrained(done.permit, record, done.run_id, done.rows), outcome

    @contextmanager
    def _training(self, policy: Policy) -> Iterator[LeaseHeld | None]:
        """Under the lease of the model's retraining; None, or who holds it."""
        with ExitStack() as stack:
            try:
                stack.enter_context(holding(self.world.leases, retrain.lease_name(policy.model), self.owner))
            except LeaseHeld as held:
                yield held
                return
            yield None

    def _bring_in(self, policy: Policy, record: RetrainingRecord) -> tuple[RetrainingRecord, Outcome | None]:
        """Register what was trained, let it climb, and keep what became of it."""
        assert record.run_id
        try:
            with self.changing(policy.model):
                version, outcome = self._climb(policy, record.run_id, record.cause)
        except LeaseHeld:
            raise  # nothing was tried: the next pass brings it in
        except RolloutRunning as busy:
            return retrain.settle(
                self.world, record, self._number_of(record), False, str(busy), waits=True
            ), None
        except MlplatformError as error:
            retrain.settle(self.world, record, None, False, str(error))
            raise
        failpoint("retrain:climbed")
        place = self.world.ledger.standings(policy.model).place(version.number)
        live = place == (policy.live_stage or policy.ladder.stages[-1])
        there = live or not policy.ladder.above(place)
        because = outcome.because if outcome else f"it is in {place}" if there else "no stage is `auto`"
        frozen = outcome is not None and outcome.status == "refused" and outcome.frozen is not None
        waits = frozen or (outcome is not None and outcome.status == "rolling_out")
        return retrain.settle(self.world, record, version.number, live, because, waits), outcome

    def take_up(self, policy: Policy) -> list[Difference]:
        """Go on with a retraining whose process died; what was found."""
        with self._training(policy) as held:
            if held is not None:
                return []
            found = self.left_retraining(policy)
            for difference in found:
                assert difference.mend
                self.world.progress(f"{difference.what}: {difference.repair}")
                difference.mend()
            return found

    def left_retraining(self, policy: Policy) -> list[Difference]:
        record = retrain.left_behind(self.world, policy.model)
        if record is None:
            return self._thawed(policy)
        what = f"a retraining stopped half-way ({record.at:%Y-%m-%d %H:%M:%S}, {record.cause})"
        if record.run_id is None:
            mend = bound(retrain.bury, self.world, record)
            return [Difference(policy.model, what, "given up: its training had not ended", mend)]
        mend = bound(self._bring_in, policy, record)
        return [Difference(policy.model, what, f"its run {record.run_id[:8]} is brought in", mend)]

    def _number_of(self, record: RetrainingRecord) -> int | None:
        """The version that the challenger's run has become."""
        versions = self.world.ledger.versions(record.model)
        return next((v.number for v in reversed(versions) if v.run_id == record.run_id), None)

    def _thawed(self, policy: Policy) -> list[Difference]:
        """A challenger that a freeze window or a rollout held up, once that is over."""
        record = retrain.waiting(self.world, policy.model)
        if record is None or record.version is None:
            return []
        ahead = policy.ladder.above(self.world.ledger.standings(policy.model).place(record.version))
        if ahead and window_at(policy.stage(ahead[0]).freeze, self.world.clock.now()):
            return []
        if any(r.phase is not Phase.PROBATION for r in self.world.deployments.active(policy.model)):
            return []
        own = [r for r in self.world.deployments.history(policy.model) if r.version == record.version]
        if ahead and own and own[-1].phase is Phase.FAILED and own[-1].stage == ahead[0]:
            what = f"the rollout of version {record.version} failed"
            mend = bound(retrain.settle, self.world, record, record.version, False, own[-1].because)
            return [Difference(policy.model, what, "the retraining did not go live", mend)]
        what = f"version {record.version} waited for the end of a freeze window or of a rollout"
        mend = bound(self._bring_in, policy, record)
        return [Difference(policy.model, what, "it goes on as far as `auto` says", mend)]

    def _climb(self, policy: Policy, run_id: str, cause: str) -> tuple[Version, Outcome | None]:
        """Register, compress, and promote through the stages that are `auto`; the last outcome.

        Called again after a crash it goes on from where the version stands.
        """
        version = register.register(self.world, policy.model, run_id, self.actor, cause, policy.trust)
        if policy.retrain.compress and policy.compress.steps:
            version = register.compress(self.world, version, policy.compress.steps, self.actor)
        place, outcome = self.world.ledger.standings(policy.model).place(version.number), None
        for stage in policy.ladder.above(place):
            if not policy.stage(stage).auto:
                break
            outcome = self.promote(policy, Wish(version, stage, self.actor, cause))
            if outcome.status != "done":
                break
        return version, outcome


def _number(holder: int | None) -> int | str:
    return "none" if holder is None else holder
