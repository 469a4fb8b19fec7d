"""Where an endpoint's server runs: what a command chose holds against everything but the policy."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import pytest

from mlplatform.domain.endpoint import Endpoint
from mlplatform.domain.ledger import Kind
from mlplatform.domain.placement import Choice, Placement
from mlplatform.domain.policy import Policy
from mlplatform.domain.use import Use
from mlplatform.errors import Refused, ServerDidNotStart, UnknownName
from mlplatform.flows import deploy, placing, plan
from mlplatform.flows.reconcile import differences, reconcile
from mlplatform.flows.rollback import rollback
from mlplatform.ports.extensions import ServerSpec, ServerState
from mlplatform.testing.fakes.serving import FakeTarget
from tests.unit.flows.worlds import ADA, MODEL, Fakes, policy

DOCKER = Use("docker", {"memory_mb": 1500})


@dataclass
class TakesOver(FakeTarget):
    """Like `docker`: lets the local server go on until its own is ready."""

    takes_over_from: ClassVar[frozenset[str]] = frozenset({"local"})
    local: FakeTarget | None = None

    def apply(self, desired: ServerSpec) -> ServerState:
        state = super().apply(desired)
        if self.local:
            self.local.stop(desired.folder)
        return state


@pytest.fixture
def docker(fakes: Fakes) -> FakeTarget:
    """Version 1 is live on the target `local`, and there are two more."""
    fakes.others = {"docker": TakesOver(local=fakes.target), "external": FakeTarget()}
    fakes.live(policy(), "run1")
    return fakes.others["docker"]


def runs_on(fakes: Fakes) -> list[str]:
    folder = fakes.documents.folder("churn")
    targets = {"local": fakes.target, **fakes.others}
    return [name for name, target in targets.items() if target.status(folder).running]


def naming(target: str | None, **options: object) -> Policy:
    """The policy with a target for its endpoint."""
    given = policy()
    stage = given.stages["production"]
    assert stage.endpoint
    endpoint: Endpoint = replace(stage.endpoint, target=target, options=options)
    return replace(given, stages={**given.stages, "production": replace(stage, endpoint=endpoint)})


def move(fakes: Fakes, given: Policy | None = None, target: Use = DOCKER) -> None:
    deploy.move_server(fakes.world, given or policy(), "production", target, ADA)


def test_a_choice_holds_for_everything_that_starts_or_tells_the_server(
    fakes: Fakes, docker: FakeTarget
) -> None:
    move(fakes)
    assert runs_on(fakes) == ["docker"]
    fakes.live(policy(), "run2")
    rollback(fakes.world, policy(), "production", ADA, "worse")
    reconcile(fakes.world, policy())
    deploy.serve_holder(fakes.world, policy(), "production", start=True)
    assert (runs_on(fakes), fakes.served) == (["docker"], [1])
    docker.stop(fakes.documents.folder("churn"))
    deploy.serve_holder(fakes.world, policy(), "production", start=True)
    assert runs_on(fakes) == ["docker"]


def test_a_choice_is_kept_in_the_ledger_with_who_made_it(fakes: Fakes, docker: FakeTarget) -> None:
    move(fakes)
    deploy.start_server(fakes.world, policy(), "production")
    [entry] = fakes.ledger.entries(MODEL, kinds=(Kind.TARGET_CHOSEN,))
    assert (entry.draft.actor, entry.draft.version, entry.draft.stage) == (ADA, 1, "production")
    assert entry.draft.reason == "endpoint churn runs on docker (memory_mb = 1500)"
    assert entry.draft.data == {"endpoint": "churn", "target": "docker", "options": {"memory_mb": 1500}}


@pytest.mark.parametrize("given", [naming("local"), naming("docker", memory_mb=900), naming(None, x=1)])
def test_a_policy_that_names_a_target_is_not_overruled(
    fakes: Fakes, docker: FakeTarget, given: Policy
) -> None:
    with pytest.raises(Refused, match="the policy of churn says that endpoint churn runs on"):
        move(fakes, given)
    with pytest.raises(Refused):
        plan.deployment(fakes.world, given, "production", DOCKER)
    assert runs_on(fakes) == ["local"]


def test_the_target_that_the_policy_names_may_be_said_too(fakes: Fakes, docker: FakeTarget) -> None:
    given = naming("docker", memory_mb=1500)
    for said in (DOCKER, Use("docker")):
        move(fakes, given, said)
    assert runs_on(fakes) == ["docker"]
    assert fakes.ledger.entries(MODEL, kinds=(Kind.TARGET_CHOSEN,)) == []


def test_a_policy_that_names_a_target_later_takes_the_server_there(fakes: Fakes, docker: FakeTarget) -> None:
    move(fakes)
    assert deploy.is_running(fakes.world, _endpoint(naming("local")))
    deploy.start_server(fakes.world, naming("local"), "production")
    assert runs_on(fakes) == ["local"]
    deploy.start_server(fakes.world, policy(), "production")  # and the choice is over
    assert runs_on(fakes) == ["local"]


def test_a_target_that_fails_leaves_the_server_where_it_was(fakes: Fakes, docker: FakeTarget) -> None:
    docker.fails = "no engine"
    with pytest.raises(ServerDidNotStart, match="no engine"):
        move(fakes)
    assert runs_on(fakes) == ["local"]
    fakes.others["external"].fails = "nobody answers"
    with pytest.raises(ServerDidNotStart, match="nobody answers"):
        move(fakes, target=Use("external"))  # it had to be stopped for that
    assert runs_on(fakes) == ["local"]
    deploy.start_server(fakes.world, policy(), "production")
    assert fakes.ledger.entries(MODEL, kinds=(Kind.TARGET_CHOSEN,)) == []


def test_a_move_that_died_is_told_and_brought_to_its_end(fakes: Fakes, docker: FakeTarget) -> None:
    move(fakes)
    done = fakes.placements.placement("churn")
    assert done
    fakes.placements.place("churn", replace(done, settled=False, before=Use("local")))
    docker.stop(fakes.documents.folder("churn"))
    fakes.target.apply(fakes.target.started[-1])  # it had not begun
    assert deploy.is_running(fakes.world, _endpoint(policy()))
    what = "the server of endpoint churn was being brought to target docker"
    assert what in [told.what for told in differences(fakes.world, policy())]
    reconcile(fakes.world, policy())
    assert (runs_on(fakes), fakes.placements.placement("churn")) == (["docker"], done)
    assert differences(fakes.world, policy()) == []
    assert fakes.kinds.count(Kind.TARGET_CHOSEN) == 1


def test_a_choice_that_died_before_it_was_carried_out_ends_with_undeploy(
    fakes: Fakes, docker: FakeTarget
) -> None:
    fakes.placements.place("churn", Placement(DOCKER, Choice(ADA, fakes.clock.now()), False, Use("local")))
    placing.stop(fakes.world, _endpoint(policy()))
    assert (runs_on(fakes), fakes.placements.placement("churn")) == ([], None)


def test_an_endpoint_is_stopped_wherever_it_runs(fakes: Fakes, docker: FakeTarget) -> None:
    move(fakes)
    placing.stop(fakes.world, _endpoint(naming("local")))
    assert runs_on(fakes) == []


def test_an_unknown_target_is_told_with_the_nearest_name(fakes: Fakes, docker: FakeTarget) -> None:
    fakes.others["dokcer"] = docker

    def unknown(kind: str, use: Use) -> object:
        raise UnknownName(kind, use.use, ["docker", "local"])

    world = replace(fakes.world, build=unknown)
    with pytest.raises(UnknownName, match="dokcer") as told:
        deploy.move_server(world, policy(), "production", Use("dokcer"), ADA)
    assert told.value.next_step == "Did you mean 'docker'?"


def test_a_dry_run_says_where_the_server_would_run(fakes: Fakes, docker: FakeTarget) -> None:
    planned = plan.deployment(fakes.world, policy(), None, DOCKER)
    assert (planned.running, planned.target, planned.moves_from) == (True, "docker", "local")
    assert fakes.placements.placement("churn") == Placement(Use("local"))
    move(fakes)
    planned = plan.deployment(fakes.world, policy(), None)
    assert (planned.target, planned.moves_from) == ("docker", "")


def _endpoint(given: Policy) -> Endpoint:
    endpoint = given.stages["production"].endpoint
    assert endpoint
    return endpoint
