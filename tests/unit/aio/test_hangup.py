from __future__ import annotations

import asyncio

from pt.aio.hangup import HangupWatch
from pt.aio.tcp import abort
from tests.sim.loop import run
from tests.sim.world import tcp_pair


def test_a_reset_is_noticed_without_reading() -> None:
    async def scenario() -> None:
        watch, told = HangupWatch(asyncio.get_running_loop()), []
        ours, theirs = tcp_pair()
        watch.add(ours.fileno(), lambda: told.append(1))
        watch.add(ours.fileno(), lambda: told.append(2))  # watched already
        theirs.send(b"data nobody reads")
        await asyncio.sleep(0.01)
        assert told == []
        abort(theirs)
        await asyncio.sleep(0.01)
        assert set(told) == {1}
        watch.discard(ours.fileno())
        watch.discard(ours.fileno())
        ours.close()
        watch.close()
        watch.close()

    run(scenario())


def test_an_orderly_end_of_one_direction_is_no_hang_up() -> None:
    async def scenario() -> None:
        watch, told = HangupWatch(asyncio.get_running_loop()), []
        ours, theirs = tcp_pair()
        watch.add(ours.fileno(), lambda: told.append(1))
        theirs.shutdown(1)
        await asyncio.sleep(0.01)
        assert told == []
        watch.discard(ours.fileno())
        ours.close()
        theirs.close()
        watch.close()

    run(scenario())


def test_a_number_used_again_is_watched_anew() -> None:
    async def scenario() -> None:
        watch, told = HangupWatch(asyncio.get_running_loop()), []
        first, other = tcp_pair()
        fd = first.fileno()
        watch.add(fd, lambda: told.append("first"))
        watch.discard(fd)
        first.close()
        second, peer = tcp_pair()
        assert fd in (second.fileno(), peer.fileno())
        mine, theirs = (second, peer) if second.fileno() == fd else (peer, second)
        watch.add(fd, lambda: told.append("second"))
        abort(theirs)
        await asyncio.sleep(0.01)
        assert set(told) == {"second"}
        watch.close()
        mine.close()
        other.close()

    run(scenario())
