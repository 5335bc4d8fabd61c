"""How a chunk gets from the driver to one worker, through the channel's actor."""

from __future__ import annotations

import asyncio
from typing import TypeVar

from orchestrator.tune.channel import _ChannelActor

Result = TypeVar("Result")


async def result_now(call: asyncio.Task[Result]) -> Result | None:
    """Return the result of the call if it is available at once, else None."""
    done, _ = await asyncio.wait([call], timeout=0.05)
    return call.result() if done else None


def test_each_chunk_is_received_once_and_as_soon_as_it_is_assigned() -> None:
    async def run() -> None:
        channel = _ChannelActor()
        first = asyncio.create_task(channel.next_assignment("a", 0))
        assert await result_now(first) is None
        await channel.assign("b", 1, ["another session's"])
        assert await result_now(first) is None
        await channel.assign("a", 2, ["x", "y"])
        assert await result_now(first) == (2, ["x", "y"])
        second = asyncio.create_task(channel.next_assignment("a", 2))
        assert await result_now(second) is None
        await channel.assign("a", 3, [])
        assert await result_now(second) == (3, [])

    asyncio.run(run())


def test_a_worker_that_exited_while_waiting_takes_no_chunk_from_its_successor() -> None:
    async def run() -> None:
        channel = _ChannelActor()
        dead = asyncio.create_task(channel.next_assignment("a", 0))
        await result_now(dead)
        await channel.assign("a", 1, None)
        successor = asyncio.create_task(channel.next_assignment("a", 0))
        assert await result_now(successor) is None
        await channel.assign("a", 3, ["x"])
        await channel.assign("a", 2, ["out of order"])
        assert await result_now(successor) == (3, ["x"])

    asyncio.run(run())


def test_a_withdrawn_chunk_is_not_received() -> None:
    async def run() -> None:
        channel = _ChannelActor()
        await channel.assign("a", 1, ["x"])
        await channel.assign("a", 2, None)
        successor = asyncio.create_task(channel.next_assignment("a", 0))
        assert await result_now(successor) is None
        await channel.assign("a", 3, ["y"])
        assert await result_now(successor) == (3, ["y"])

    asyncio.run(run())


def test_a_command_reaches_each_poller_once() -> None:
    async def run() -> None:
        channel = _ChannelActor()
        polls = [asyncio.create_task(channel.next_command(name, "continue")) for name in "ab"]
        await channel.send("continue")
        assert [await result_now(poll) for poll in polls] == [None, None]
        await channel.send("drain")
        assert [await result_now(poll) for poll in polls] == ["drain", "drain"]
        assert await result_now(asyncio.create_task(channel.next_command("a", "drain"))) is None

    asyncio.run(run())


def test_a_closed_poller_is_answered_even_if_its_call_arrives_after_it_was_closed() -> None:
    """Otherwise Ray never notices that a worker failed to start, and the run waits for ever."""

    async def run() -> None:
        channel = _ChannelActor()
        waiting = asyncio.create_task(channel.next_command("a", "continue"))
        other = asyncio.create_task(channel.next_command("other", "continue"))
        assert await result_now(waiting) is None
        await channel.close("a")
        assert await result_now(waiting) == "continue"
        await channel.close("b")
        late = asyncio.create_task(channel.next_command("b", "continue"))
        assert await result_now(late) == "continue"
        assert await result_now(other) is None

    asyncio.run(run())
