"""kill -9 at random moments: 200 times each flow, on SQLite and on PostgreSQL (`make soak`).

A command is killed after a time drawn uniformly over what it takes when nobody kills it. The next command, now
`reconcile`, now the same one again, must find it done or undone, and everything whole
(`tests.small_project.assert_whole`). `MLPLATFORM_KILLS` sets the number of kills, `MLPLATFORM_SEED` repeats a run.
"""

from __future__ import annotations

import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

import pytest

from mlplatform.control import Platform
from mlplatform.domain.ledger import Kind
from mlplatform.tracking.client import Mlflow
from tests.databases import BACKENDS
from tests.small_project import MODEL, PLACES, Place, SmallProject, assert_whole

KILLS = int(os.environ.get("MLPLATFORM_KILLS", "200"))
SEED = int(os.environ.get("MLPLATFORM_SEED", str(time.time_ns() % 1_000_000)))
REASON = ("--reason", "because")
RECONCILE = ("reconcile", MODEL)
NOTHING_TO_DO = 3
"""Exit code of a command whose work is done already."""


def nothing(place: Place) -> None:
    return None


def unmeasured(place: Place) -> None:
    """What was measured of version 4 is lost."""
    with place.opened() as platform:
        evidence = platform.world.bundles.evidence(platform.version(f"{MODEL}@4").digest)
    for answers in evidence.glob("evaluation-*.npz"):
        answers.unlink()


def deployed(place: Place) -> None:
    place.done("deploy", MODEL)


def something_to_free(place: Place) -> None:
    with (place.folder / "policy.toml").open("a") as policy:
        policy.write('\n[gc]\nkeep = "0s"\nkeep_versions = 0\n')
    place.done("reject", f"{MODEL}@4", *REASON)


def something_to_repair(place: Place) -> None:
    """A registration that died, an alias that was moved, an approval that came by a tag."""
    words = ("register", MODEL, "--run", place.fresh_run)
    assert place.run(*words, failpoint="register:created")[0] == -signal.SIGKILL
    store = Mlflow(place.environment["MLPLATFORM_TRACKING_URI"])
    store.call("set_registered_model_alias", MODEL, "staging", "4")
    store.call("set_model_version_tag", MODEL, "4", "mlplatform.approve.production", "seen")


@dataclass(frozen=True)
class Flow:
    command: tuple[str, ...]
    done: dict[int, str]
    """Where the versions stand when it was done; `PLACES` when it was not, unless `before` changes them."""
    before: Callable[[Place], None] = nothing
    undone: dict[int, str] | None = None
    serves: tuple[bool, bool] = (False, False)
    """Whether a server runs: undone, done."""
    once: Kind | None = None
    """Of this kind there is exactly one entry when it was done, and none when it was not."""


FLOWS = {
    "register": Flow(("register", MODEL, "--run", "FRESH"), {**PLACES, 6: "CANDIDATE"}),
    "check": Flow(("check", f"{MODEL}@4", "staging"), PLACES, unmeasured),
    "approve": Flow(("approve", f"{MODEL}@4", "--for", "production", *REASON), PLACES, once=Kind.APPROVED),
    "reject": Flow(("reject", f"{MODEL}@4", *REASON), {**PLACES, 4: "REJECTED"}, once=Kind.REJECTED),
    "promote": Flow(
        ("promote", f"{MODEL}@4", "staging", *REASON), {**PLACES, 4: "staging", 3: "RETIRED"}, unmeasured
    ),
    "promote with a rollout": Flow(
        ("promote", f"{MODEL}@3", "production", *REASON),
        {**PLACES, 3: "production", 2: "STANDBY", 1: "RETIRED"},
        serves=(False, True),
    ),
    "rollback": Flow(
        ("rollback", MODEL, *REASON),
        {**PLACES, 1: "production", 2: "ROLLED_BACK"},
        deployed,
        serves=(True, True),
        once=Kind.ROLLED_BACK,
    ),
    "retire": Flow(("retire", f"{MODEL}@1", *REASON), {**PLACES, 1: "RETIRED"}, once=Kind.RETIRED),
    "reconcile": Flow(RECONCILE, PLACES, something_to_repair, once=Kind.APPROVED),
    "gc": Flow(
        ("gc",), {**PLACES, 4: "REJECTED"}, something_to_free, {**PLACES, 4: "REJECTED"}, once=Kind.COLLECTED
    ),
}
REPEATABLE = {"approve", "reconcile", "gc", "check", "register"}
"""Done a second time these end with 0; the others say that there is nothing to do."""


@pytest.mark.soak
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", FLOWS)
def test_a_random_kill_leaves_nothing_half_way(
    name: str, backend: str, request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]
) -> None:
    project: SmallProject = request.getfixturevalue(f"small_{backend}")
    chance, flow, count = random.Random(f"{SEED} {name} {backend}"), FLOWS[name], Counter[str]()
    seconds = median(seconds_alone(project, flow) for _ in range(3))
    for _ in range(KILLS):
        with project.copied() as place:
            flow.before(place)
            after = chance.uniform(0, seconds)
            told = f"seed {SEED}, killed after {after:.3f} s of {seconds:.3f} s"
            code, output = place.run(*words(place, flow), kill_after_seconds=after)
            assert code in (0, -signal.SIGKILL), f"{told}: {code}\n{output}"
            count["killed" if code else "too late"] += 1
            again = chance.random() < 1 / 3 and name != "check"  # what changes nothing clears nothing away
            try:
                count[settle(place, name, flow, again)] += 1
            except AssertionError as error:
                raise AssertionError(f"{told}, then {'the same again' if again else 'reconcile'}") from error
    assert count["killed"], "no kill hit"
    with capsys.disabled():
        seen = ("killed", "too late", *(("undone", "done") if flow.done != PLACES or flow.once else ()))
        figures = ", ".join(f"{count[what]} {what}" for what in seen)
        print(f"\n{name} on {backend}: {seconds:.2f} s; {figures}; seed {SEED}")


def seconds_alone(project: SmallProject, flow: Flow) -> float:
    """How long it takes when nobody kills it."""
    with project.copied() as place:
        flow.before(place)
        begin = time.perf_counter()
        code, output = place.run(*words(place, flow))
        assert code == 0, output
        return time.perf_counter() - begin


def settle(place: Place, name: str, flow: Flow, again: bool) -> str:
    """Run the next command and look whether all is whole; whether the killed one was done."""
    with place.opened() as platform:
        done = is_done(platform, flow)
    code, output = place.run(*(words(place, flow) if again else RECONCILE))
    with place.opened() as platform:
        now = is_done(platform, flow)
        assert now or not done, "what was done is undone"
        assert now or not again, output
        numbers = dict(platform.world.ledger.standings(MODEL).places)
        kinds = [entry.draft.kind for entry in platform.world.ledger.entries(MODEL)]
    assert code in ((0, NOTHING_TO_DO) if again and name not in REPEATABLE else (0,)), output
    repeated = again and name == "approve" and done
    if flow.once:
        assert kinds.count(flow.once) == int(now) + int(repeated)
    wanted = flow.done if now else (flow.undone or PLACES)
    if name == "register" and now:  # MLflow does not give a number twice
        wanted = {**PLACES, max(numbers): "CANDIDATE"}
        assert len(numbers) == len(wanted)
    if name == "retire" and again:
        place.done(*RECONCILE)
    assert_whole(place, wanted, run_left=flow.serves[now])
    if name == "gc":
        place.done("gc")
        with place.opened() as platform:
            assert platform.gc(dry_run=True).garbage == (), "what it left is not freed by the next"
            assert len(platform.world.ledger.entries(MODEL, kinds=(Kind.COLLECTED,))) == 1
    return "done" if now else "undone"


def is_done(platform: Platform, flow: Flow) -> bool:
    """Whether the ledger says that it was done."""
    ledger = platform.world.ledger
    if flow.once:
        return bool(ledger.entries(MODEL, kinds=(flow.once,)))
    return ledger.standings(MODEL).places != PLACES or flow.done == PLACES


def words(place: Place, flow: Flow) -> list[str]:
    return [place.fresh_run if word == "FRESH" else word for word in flow.command]
