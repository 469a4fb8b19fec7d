"""What may wait for a model or a thread: so many requests, and bodies of so many bytes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from mlplatform.domain.limits import BODIES, RequestLimits
from mlplatform.serving.calls import Response
from mlplatform.serving.inflight import SHARED_BY, SMALL_BODY_BYTES, InFlight
from mlplatform.serving.problems import TooBusy, TooLate

LARGE = 1_000_000
LIMITS = RequestLimits(max_body_bytes=LARGE, max_waiting=100)


def late(problem: TooLate) -> Response:
    return Response(504, [])


def on_a_loop(act: Callable[[InFlight], None]) -> None:
    async def run() -> None:
        act(InFlight(LIMITS))

    asyncio.run(run())


def test_bodies_that_wait_are_bounded_by_their_bytes_and_small_ones_are_not() -> None:
    def act(flight: InFlight) -> None:
        held = []
        for _ in range(BODIES):
            flight.admit(body_bytes=LARGE)
            held.append(flight.begin(late, body_bytes=LARGE))
        with pytest.raises(TooBusy, match="bodies of 16000000 bytes wait already") as refused:
            flight.admit(body_bytes=SMALL_BODY_BYTES + 1)
        assert refused.value.facts["retry_after"] == 1
        for _ in range(5):
            flight.admit(body_bytes=SMALL_BODY_BYTES)
            flight.begin(late, body_bytes=SMALL_BODY_BYTES)
        flight.end(held.pop(), body_bytes=LARGE)
        flight.admit(body_bytes=LARGE)

    on_a_loop(act)


def test_one_model_of_several_holds_a_quarter_of_the_bytes_at_most() -> None:
    def act(flight: InFlight) -> None:
        held = [flight.begin(late, "slow", LARGE) for _ in range(BODIES // SHARED_BY)]
        with pytest.raises(TooBusy, match="bodies of 4000000 bytes wait for slow"):
            flight.admit("slow", LARGE)
        flight.admit("slow", 100)
        flight.admit("other", LARGE)
        for one in held:
            flight.end(one, "slow", LARGE)
        assert flight.held_bytes == 0
        flight.admit("slow", LARGE)

    on_a_loop(act)


def test_bytes_are_held_until_the_work_is_done_also_where_nobody_waits_any_more() -> None:
    async def run() -> None:
        flight = InFlight(RequestLimits(max_body_bytes=LARGE, deadline_ms=1))
        given_up = flight.begin(late, body_bytes=LARGE)
        assert (await given_up).status == 504
        assert flight.held_bytes == LARGE
        assert not flight.end(given_up, body_bytes=LARGE)
        assert flight.held_bytes == 0

    asyncio.run(run())
