"""What the driver hands to one worker, on its way through the beacon."""

from __future__ import annotations

import asyncio

from orchestrator.tune.channel import _Beacon


async def soon(call: asyncio.Task[tuple[int, list[str]]]) -> tuple[int, list[str]] | None:
    """What the call gives, if it does so at once."""
    done, _ = await asyncio.wait([call], timeout=0.05)
    return call.result() if done else None


def test_each_lane_is_taken_when_it_is_there_and_once() -> None:
    async def run() -> None:
        beacon = _Beacon()
        first = asyncio.create_task(beacon.take("a", 0))
        assert await soon(first) is None
        await beacon.hand("b", 1, ["of another"])
        assert await soon(first) is None
        await beacon.hand("a", 2, ["x", "y"])
        assert await soon(first) == (2, ["x", "y"])
        second = asyncio.create_task(beacon.take("a", 2))
        assert await soon(second) is None
        await beacon.hand("a", 3, [])
        assert await soon(second) == (3, [])

    asyncio.run(run())


def test_a_worker_that_died_while_it_waited_takes_nothing_from_the_next_one() -> None:
    async def run() -> None:
        beacon = _Beacon()
        ghost = asyncio.create_task(beacon.take("a", 0))
        await soon(ghost)
        await beacon.hand("a", 1, None)
        following = asyncio.create_task(beacon.take("a", 0))
        assert await soon(following) is None
        await beacon.hand("a", 3, ["x"])
        await beacon.hand("a", 2, ["what came late"])
        assert await soon(following) == (3, ["x"])

    asyncio.run(run())


def test_what_was_taken_back_is_not_taken() -> None:
    async def run() -> None:
        beacon = _Beacon()
        await beacon.hand("a", 1, ["x"])
        await beacon.hand("a", 2, None)
        following = asyncio.create_task(beacon.take("a", 0))
        assert await soon(following) is None
        await beacon.hand("a", 3, ["y"])
        assert await soon(following) == (3, ["y"])

    asyncio.run(run())
