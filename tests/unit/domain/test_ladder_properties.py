"""Whatever anybody does in whatever order: the replay is where versions stand, one version per stage."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, rule

from mlplatform.domain.ladder import (
    CANDIDATE,
    MARKS,
    REJECTED,
    RETIRED,
    ROLLED_BACK,
    STANDBY,
    Change,
    Ladder,
    is_stage,
    last_good,
    replay,
)
from mlplatform.domain.ledger import Actor, Draft, Kind, tenures
from mlplatform.domain.taking_back import rollback
from mlplatform.domain.version import Version
from mlplatform.errors import Conflict, IllegalMove, UnknownName
from mlplatform.testing.clock import START, FixedClock
from mlplatform.testing.fakes.state import FakeLedger

STAGES = ("qa", "staging", "production")
ADA = Actor("os:ada")


class Platform(RuleBasedStateMachine):
    """Legal moves by the ladder, stale ones that were overtaken, and nonsense straight at the ledger."""

    planned = Bundle("planned")

    @initialize(count=st.integers(1, len(STAGES)))
    def begin(self, count):
        self.ladder = Ladder(STAGES[:count])
        self.clock = FixedClock()
        self.ledger = FakeLedger(self.clock)
        self.numbers = 0

    @rule()
    def register(self):
        self.numbers += 1
        changes = (Change(self.numbers, None, CANDIDATE),)
        version = Version("m", self.numbers, "d", "onnx", "r", START, "a", 1)
        self.ledger.register(version, self._draft(Kind.REGISTERED, changes))

    @rule(target=planned, data=st.data(), keep_warm=st.booleans())
    def plan_promotion(self, data, keep_warm):
        """Decided now, committed perhaps much later."""
        version, stage = self._version(data), data.draw(st.sampled_from(self.ladder.stages))
        try:
            return self.ladder.promotion(self.ledger.standings("m"), version, stage, keep_warm)
        except (IllegalMove, UnknownName):
            return []

    @rule(target=planned, data=st.data())
    def plan_rollback(self, data):
        stage = data.draw(st.sampled_from(self.ladder.stages))
        standings = self.ledger.standings("m")
        held = tenures(self.ledger.entries("m"), stage)
        to = last_good(standings, held)
        if to is None:
            return []
        changes = rollback(self.ladder, standings, stage, to, held)
        assert changes[-1] == Change(to, standings.place(to), stage)
        return changes

    @rule(target=planned, data=st.data(), named=st.booleans())
    def plan_return(self, data, named):
        """Of any version that somebody, or something, has in mind."""
        version, stage = self._version(data), data.draw(st.sampled_from(self.ladder.stages))
        standings, held = self.ledger.standings("m"), tenures(self.ledger.entries("m"), stage)
        try:
            changes = rollback(self.ladder, standings, stage, version, held, named)
        except (IllegalMove, UnknownName):
            return []
        assert version in held
        assert standings.place(version) in ((RETIRED, STANDBY, ROLLED_BACK) if named else (RETIRED, STANDBY))
        assert standings.after(changes).holder(stage) == version
        return changes

    @rule(target=planned, data=st.data(), mark=st.sampled_from((RETIRED, REJECTED)))
    def plan_removal(self, data, mark):
        version = self._version(data)
        return [Change(version, self.ledger.standings("m").places.get(version), mark)] if version else []

    @rule(
        target=planned,
        changes=st.lists(
            st.builds(
                Change,
                st.integers(1, 6),
                st.sampled_from((*MARKS, *STAGES)),
                st.sampled_from((*MARKS, *STAGES)),
            ),
            max_size=3,
        ),
    )
    def plan_nonsense(self, changes):
        return changes

    @rule(changes=planned, key=st.none() | st.sampled_from("abc"), seconds=st.integers(-5, 5))
    def commit(self, changes, key, seconds):
        self.clock.advance(seconds)
        before, count = self.ledger.standings("m").places, len(self.ledger.entries("m"))
        known = {e.draft.key for e in self.ledger.entries("m")} - {None}
        try:
            entry = self.ledger.append(replace(self._draft(Kind.PROMOTED, tuple(changes)), key=key))
        except Conflict:
            assert self.ledger.standings("m").places == before
            assert len(self.ledger.entries("m")) == count
            return
        if key in known:
            assert self.ledger.standings("m").places == before
            assert len(self.ledger.entries("m")) == count
        else:
            assert self.ledger.entries("m")[-1] == entry

    @invariant()
    def replay_gives_the_standings(self):
        entries = self.ledger.entries("m")
        assert (
            dict(replay("m", (e.draft.changes for e in entries)).places) == self.ledger.standings("m").places
        )

    @invariant()
    def a_stage_has_at_most_one_version(self):
        held = [place for place in self.ledger.standings("m").places.values() if is_stage(place)]
        assert len(held) == len(set(held))

    @invariant()
    def the_chain_holds(self):
        assert self.ledger.verify("m").holds
        entries = self.ledger.entries("m")
        assert [e.seq for e in entries] == list(range(1, len(entries) + 1))

    @invariant()
    def the_present_holder_is_the_last_tenure(self):
        for stage in self.ladder.stages:
            holder = self.ledger.standings("m").holder(stage)
            assert holder is None or tenures(self.ledger.entries("m"), stage)[-1] == holder

    @invariant()
    def every_moment_of_the_past_can_be_replayed(self):
        entries = self.ledger.entries("m")
        for moment in {e.at for e in entries}:
            past = self.ledger.entries("m", moment)
            assert past == entries[: len(past)]
            places = replay("m", (e.draft.changes for e in past)).places
            assert self.ledger.standings("m", moment).places == places

    def _version(self, data):
        return data.draw(st.integers(1, self.numbers)) if self.numbers else 0

    def _draft(self, kind, changes):
        return Draft("m", kind, changes[0].version if changes else 0, ADA, "", changes)


TestPlatform = Platform.TestCase
TestPlatform.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
