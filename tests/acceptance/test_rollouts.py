"""Rollouts on a real server under load: broken versions are taken back, good ones go live, keys stay where they are.

The ledger is the fakes' (the contract suite holds it to the real one); server, documents, counters and captured rows
are real. Steps bake for half a second: what a step waits for is requests.
"""

from __future__ import annotations

import http.client
import json
import os
import re
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest

from mlplatform.chains import Chains
from mlplatform.data.observations import FolderObservations
from mlplatform.domain.endpoint import Endpoint
from mlplatform.domain.ladder import CANDIDATE, Change
from mlplatform.domain.ledger import Draft, Entry, Kind
from mlplatform.domain.policy import Policy, Stage
from mlplatform.domain.rollout import Phase, Rollout
from mlplatform.domain.rollout_plan import RolloutPlan
from mlplatform.domain.use import Use
from mlplatform.domain.version import Version
from mlplatform.flows import live
from mlplatform.flows.promote import Wish, promote
from mlplatform.flows.rollback import rollback
from mlplatform.flows.rollout import follow
from mlplatform.flows.world import World
from mlplatform.plugins.targets.local import LocalTarget
from mlplatform.store.documents import FolderDocuments
from mlplatform.testing.clock import FixedClock
from mlplatform.wiring import SystemClock, Wiring
from tests.flawed import installed, write_model
from tests.unit.flows.worlds import ADA, MODEL, Fakes, policy

CLIENTS = 4
MISSING = 0.25
"""Share of requests without a value that most models do without."""
GIVE_UP_SECONDS = 60.0
ENOUGH = 500
"""Requests, for probation to know the version before, and for a good one to have shown itself."""
COUNTED = (
    Use("error_rate", {"at_most": 0.05, "min_requests": 60}),
    Use("refusals", {"margin": 0.05, "min_requests": 60}),
    Use("latency", {"times_incumbent": 2.0, "min_requests": 60}),
    Use("memory", {"grow_mb": 40.0, "min_requests": 60}),
)
WITH_SHADOW = RolloutPlan(
    ("shadow:500ms", "10%:500ms", "50%:500ms", "100%"),
    judge=(*COUNTED, Use("disagreement", {"at_most": 0.1, "min_rows": 60})),
)
WITHOUT = RolloutPlan(
    ("10%:500ms", "50%:500ms", "100%"),
    judge=(*COUNTED, Use("output_drift", {"at_most": 0.1, "min_rows": 60})),
)
FLAWS = ("wrong", "nan", "slow", "crash", "leak")


class Ticking(FixedClock):
    """The real time, for fakes that are given a clock that stands still."""

    def now(self) -> datetime:
        return SystemClock().now()


@dataclass
class Traffic:
    """Clients that ask without a pause, each with a key of its own."""

    port: int
    missing: float = 0.0
    versions: Counter[str] = field(default_factory=Counter)
    """Requests by the version that answered, or failed to."""
    statuses: Counter[int] = field(default_factory=Counter)
    _stop: threading.Event = field(default_factory=threading.Event)
    _threads: list[threading.Thread] = field(default_factory=list)

    def __enter__(self) -> Traffic:
        self._threads = [threading.Thread(target=self._ask, args=(n,)) for n in range(CLIENTS)]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def wait_for_another(self, version: str) -> None:
        """Answer."""
        seen = self.versions[version]
        until(lambda: self.versions[version] > seen)

    def _ask(self, number: int) -> None:
        rng = np.random.default_rng(number)
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        while not self._stop.is_set():
            row = rng.normal(size=2).tolist()
            if rng.random() < self.missing:
                row[1] = None
            version, status = asked(connection, row)
            self.versions[version] += 1
            self.statuses[status] += 1
        connection.close()


def until(condition: Callable[[], bool]) -> None:
    deadline, tick = time.monotonic() + GIVE_UP_SECONDS, threading.Event()
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        tick.wait(0.1)


def asked(
    connection: http.client.HTTPConnection, row: list[float | None], customer: str = ""
) -> tuple[str, int]:
    """Which version answered, and how."""
    headers = {"Content-Type": "application/json", "X-Customer": customer}
    body = {"dataframe_split": {"columns": ["a", "b"], "data": [row]}}
    connection.request("POST", "/invocations", json.dumps(body), headers)
    response = connection.getresponse()
    response.read()
    return response.headers["Mlplatform-Model"], response.status


@dataclass
class Shop:
    """A stage with a real server under load, and what the control plane knows of it."""

    fakes: Fakes
    world: World
    port: int
    given: Policy

    def version(self, cut: float, flaw: str = "") -> Version:
        """Registered and in staging."""
        with self.world.bundles.stage() as staged:
            manifest = write_model(staged / "made", cut, flaw)
            frozen = self.world.bundles.freeze(staged / "made", manifest)
        number = 1 + len(self.world.ledger.versions(MODEL))
        made = Version(
            MODEL, number, frozen.digest, "flawed", f"run{number}", self.world.clock.now(), "ada", 100
        )
        changes = (Change(number, None, CANDIDATE),)
        self.world.ledger.register(made, Draft(MODEL, Kind.REGISTERED, number, ADA, "made", changes))
        self.promote(made, "staging")
        return made

    def promote(self, version: Version, stage: str) -> Rollout | None:
        """As far as it goes at once."""
        outcome = promote(self.world, self.given, Wish(version, stage, ADA, "no gates here", True))
        assert outcome.status in ("done", "rolling_out"), outcome.because
        return follow(self.world, self.given, outcome.rollout) if outcome.rollout else None

    def planned(self, plan: RolloutPlan) -> None:
        stage = replace(self.given.stage("production"), rollout=plan)
        self.given = replace(self.given, stages={**self.given.stages, "production": stage})

    def settled(self, rollout: Rollout) -> Rollout:
        """The rollout once it is through or taken back; ticks as `monitor` and `up` do."""
        deadline = time.monotonic() + GIVE_UP_SECONDS
        while rollout.phase is Phase.SHIFTED:
            assert time.monotonic() < deadline, f"it did not settle: {rollout.because}"
            threading.Event().wait(0.1)
            rollout = follow(self.world, self.given, rollout)
        return rollout

    def counted(self, number: int | None) -> int:
        """Requests that a version was asked, as far as the workers have told."""
        return self.world.documents.counted("churn").of(MODEL, number or 0).asked

    def wait_until_counted(self, number: int | None) -> None:
        wanted = self.counted(number) + ENOUGH
        until(lambda: self.counted(number) >= wanted)

    def watched_until_counted(self, number: int) -> Entry | None:
        """Looked at again and again, as by `mlplatform monitor`, until the version is taken back or was asked enough;
        the entry that took it back."""
        chains = Chains(cast(Wiring, SimpleNamespace(world=self.world)), "a test")
        taken_back: list[Entry] = []

        def settled() -> bool:
            enough = self.counted(number) >= ENOUGH
            taken_back.extend(filter(None, [chains.tend_rollouts(self.given)]))
            return bool(taken_back) or enough

        until(settled)
        return taken_back[0] if taken_back else None

    @property
    def holder(self) -> int | None:
        return self.world.ledger.standings(MODEL).holder("production")


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    root = tmp_path_factory.mktemp("shop")
    documents = FolderDocuments(root / "servers")
    fakes = Fakes(root, clock=Ticking())
    world = replace(
        fakes.world,
        documents=documents,
        observations=FolderObservations(documents.folder),
        build=lambda kind, use: LocalTarget() if kind == "target" else fakes.world.build(kind, use),
    )
    given = policy(stages={"staging": Stage(), "production": Stage(endpoint=Endpoint("churn"))})
    folder = documents.folder("churn")
    folder.mkdir(parents=True)
    with installed(root / "site") as environment, (folder / "server.log").open("wb") as log:
        command = [sys.executable, "-m", "mlplatform.serving.main", "--folder", str(folder)]
        server = subprocess.Popen(command, env={**os.environ, **environment}, stdout=log, stderr=log)
        try:
            yield _opened(Shop(fakes, world, 0, given), folder)
        finally:
            server.terminate()
            server.wait(30)


def _opened(shop: Shop, folder: Path) -> Shop:
    """With version 1 in production."""
    deadline = time.monotonic() + GIVE_UP_SECONDS
    while not LocalTarget().status(folder).running:
        assert time.monotonic() < deadline, (folder / "server.log").read_text()
        threading.Event().wait(0.05)
    shop.port = LocalTarget().status(folder).port
    first = shop.promote(shop.version(cut=0.0), "production")
    assert first and first.phase is Phase.DONE
    return shop


@dataclass(frozen=True)
class Tried:
    what: str
    plan: str
    phase: Phase
    touched: int
    """Requests that the version answered, or failed to."""
    asked: int
    """All requests while it was rolled out."""
    because: str

    def __str__(self) -> str:
        share = self.touched / max(1, self.asked)
        row = f"{self.what:<10} {self.plan:<8} {self.phase.value:<10} {self.touched:>6} of {self.asked:<6}"
        return f"{row} {share:6.1%}  {self.because[:90]}"


def tried(shop: Shop, flaw: str, plan: RolloutPlan, cut: float, missing: float = 0.0) -> Tried:
    """A version from promotion to probation or back."""
    shop.planned(plan)
    version = shop.version(cut, flaw)
    with Traffic(shop.port, missing) as traffic:
        rollout = shop.promote(version, "production")
        assert rollout
        rollout = shop.settled(rollout)
    name = "shadow" if plan is WITH_SHADOW else "shares"
    touched, total = traffic.versions[version.ref], sum(traffic.versions.values())
    return Tried(flaw or "good", name, rollout.phase, touched, total, rollout.because)


def report(found: list[Tried], capsys: pytest.CaptureFixture[str]) -> None:
    with capsys.disabled():
        print("\nmodel      plan     ends in    requests touched    share  because")
        print("\n".join(map(str, found)))


def battery(shop: Shop, tries: list[tuple[str, RolloutPlan]], capsys: pytest.CaptureFixture[str]) -> None:
    found = []
    for number, (flaw, plan) in enumerate(tries):
        # Without a shadow nobody compares answers to the same row; wrong ones show by their distribution.
        flaw = "constant" if flaw == "wrong" and plan is WITHOUT else flaw
        before = shop.holder
        found.append(tried(shop, flaw, plan, cut=0.02 * (number % 5)))
        broken, taken_back = bool(flaw), found[-1].phase is Phase.FAILED
        assert broken == taken_back, f"{found[-1]}"
        assert (shop.holder == before) == taken_back
    report(found, capsys)


def test_broken_versions_are_taken_back_and_good_ones_go_live(
    shop: Shop, capsys: pytest.CaptureFixture[str]
) -> None:
    shadow, shares = WITH_SHADOW, WITHOUT
    broken = [("nan", shadow), ("wrong", shares), ("wrong", shadow), ("slow", shares), ("leak", shadow)]
    battery(shop, [*broken, ("crash", shares), ("", shadow), ("", shares)], capsys)


@pytest.mark.soak
def test_twenty_broken_versions_are_taken_back_and_twenty_good_ones_go_live(
    shop: Shop, capsys: pytest.CaptureFixture[str]
) -> None:
    plans = (WITH_SHADOW, WITHOUT)
    broken = [(FLAWS[n % 5], plans[n // 5 % 2]) for n in range(20)]
    good = [("", plans[n % 2]) for n in range(20)]
    battery(shop, [one for pair in zip(broken, good, strict=True) for one in pair], capsys)


def test_a_version_that_refuses_what_its_incumbent_answers_is_taken_back(
    shop: Shop, capsys: pytest.CaptureFixture[str]
) -> None:
    found = []
    for flaw, plan in (("refuses", WITH_SHADOW), ("refuses", WITHOUT), ("", WITH_SHADOW), ("", WITHOUT)):
        found.append(tried(shop, flaw, plan, cut=0.01, missing=MISSING))
        assert found[-1].phase is (Phase.FAILED if flaw else Phase.PROBATION), f"{found[-1]}"
        assert ("refusals: refused" in found[-1].because) == bool(flaw)
    report(found, capsys)


@pytest.mark.parametrize(
    ("flaw", "missing", "why"),
    [
        ("crash", 0.0, r"probation: \d+ of \d+ requests failed, 1\.0% allowed"),
        (
            "refuses",
            MISSING,
            r"probation: \d+ of \d+ requests refused, \d+ of \d+ by the .* 5\.0% more allowed",
        ),
        ("", MISSING, ""),
    ],
    ids=["crash", "refuses", "good"],
)
def test_probation_switches_back_from_a_version_that_fails_or_refuses_requests(
    shop: Shop, flaw: str, missing: float, why: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """All at once: what was wrong with it shows on live requests only. A good one stays."""
    shop.planned(RolloutPlan())
    before, version = shop.holder, shop.version(cut=0.0, flaw=flaw)
    with Traffic(shop.port, missing) as traffic:
        shop.wait_until_counted(before)
        began = sum(traffic.versions.values())
        rollout = shop.promote(version, "production")
        assert rollout and rollout.phase is Phase.PROBATION and shop.holder == version.number
        entry = shop.watched_until_counted(version.number)
        traffic.wait_for_another(f"{MODEL}@{shop.holder}")
    asked_since = sum(traffic.versions.values()) - began
    now = next(r for r in shop.world.deployments.history(MODEL) if r.id == rollout.id)
    because = entry.draft.reason if entry else now.because
    touched = traffic.versions[version.ref]
    report([Tried(flaw or "good", "at once", now.phase, touched, asked_since, because)], capsys)
    if not flaw:
        assert (entry, now.phase, shop.holder) == (None, Phase.PROBATION, version.number)
        assert set(traffic.statuses) == {200}
        return
    assert entry and re.fullmatch(why, because), because
    assert (entry.draft.kind, entry.draft.actor.name) == (Kind.ROLLED_BACK, "monitor")
    assert shop.world.ledger.entries(MODEL)[-1] == entry
    assert (now.phase, now.because) == (Phase.FAILED, because)
    assert shop.holder == entry.draft.version == before
    connection = http.client.HTTPConnection("127.0.0.1", shop.port, timeout=10)
    answers = {asked(connection, [3.0, None if missing else float(n)]) for n in range(50)}
    connection.close()
    assert answers == {(f"{MODEL}@{before}", 200)}


def test_a_rollback_in_the_middle_is_in_effect_at_once(shop: Shop) -> None:
    shop.planned(WITHOUT)
    before = shop.holder
    version = shop.version(cut=0.0)
    assert shop.promote(version, "production")
    found = live.running(shop.world, shop.given, "production")
    assert found and str(found[1]) == "10 %, step 1 of 3"
    rollback(shop.world, shop.given, "production", ADA, "I do not like it")
    connection = http.client.HTTPConnection("127.0.0.1", shop.port, timeout=10)
    answered = {asked(connection, [0.0, float(n)])[0] for n in range(100)}
    connection.close()
    assert answered == {f"{MODEL}@{before}"}
    assert shop.holder == before


def test_a_key_stays_on_its_version_while_the_share_grows(shop: Shop) -> None:
    steps = ("10%:500ms", "30%:500ms", "60%:500ms", "100%")
    patient = Use("error_rate", {"at_most": 0.5, "min_requests": 1})
    shop.planned(RolloutPlan(steps, "header:X-Customer", (patient,)))
    version = shop.version(cut=0.0)
    assert shop.promote(version, "production")
    seen: dict[str, list[bool]] = {f"customer-{n}": [] for n in range(200)}
    connection = http.client.HTTPConnection("127.0.0.1", shop.port, timeout=10)
    shares = []
    while found := live.running(shop.world, shop.given, "production"):
        share = found[1].step.share
        for customer, moved in seen.items():
            twice = {asked(connection, [0.0, 0.0], customer)[0] == version.ref for _ in range(2)}
            assert len(twice) == 1, "the same key went to both versions"
            moved.append(twice.pop())
        shares.append((share, np.mean([moved[-1] for moved in seen.values()])))
        while (now := live.running(shop.world, shop.given, "production")) and now[1].at == found[1].at:
            threading.Event().wait(0.05)
            follow(shop.world, shop.given, now[0])
    connection.close()
    assert [share for share, _ in shares] == [0.1, 0.3, 0.6], shop.world.deployments.history(MODEL)[
        -1
    ].because
    assert all(abs(share - found) < 0.12 for share, found in shares), shares
    assert all(moved == sorted(moved) for moved in seen.values()), "a key came back"
