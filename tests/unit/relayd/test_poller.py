from __future__ import annotations

import asyncio
import socket

import pytest

from pt.relayd.poller import BROKEN, READ, WRITE, EpollPoller, LoopPoller, poller
from tests.sim.loop import run
from tests.sim.world import tcp_pair
from tests.unit.relayd.rig import reset, until

KINDS = pytest.mark.parametrize("kind", [EpollPoller, LoopPoller])


class Heard:
    def __init__(self, after=None) -> None:
        self.events: list[int] = []
        self.after = after

    def ready(self, events: int) -> None:
        self.events.append(events)
        if self.after is not None:
            self.after()


@KINDS
def test_each_interest_is_told_for_as_long_as_it_lasts(kind):
    async def main():
        watch = kind(asyncio.get_running_loop())
        left, right = tcp_pair()
        heard = Heard()
        watch.add(left.fileno(), heard, READ)
        await asyncio.sleep(0.01)
        assert heard.events == []
        right.send(b"x")
        await until(lambda: len(heard.events) > 1)  # level-triggered: again and again
        assert set(heard.events) == {READ}
        watch.change(left.fileno(), WRITE)
        heard.events.clear()
        await until(lambda: heard.events)
        assert heard.events[0] == WRITE
        watch.change(left.fileno(), 0)
        heard.events.clear()
        await asyncio.sleep(0.01)
        assert heard.events == []
        watch.change(left.fileno(), READ | WRITE)
        await until(lambda: len(heard.events) >= 2)
        watch.discard(left.fileno())
        watch.discard(left.fileno())
        heard.events.clear()
        await asyncio.sleep(0.01)
        assert heard.events == []
        watch.close()
        left.close()
        right.close()

    run(main())


@KINDS
def test_whoever_was_discarded_in_the_same_turn_is_not_called(kind):
    async def main():
        watch = kind(asyncio.get_running_loop())
        pairs = [tcp_pair(), tcp_pair()]
        heard = [Heard(), Heard()]
        for one, (left, _) in zip(heard, pairs, strict=True):
            one.after = lambda: [watch.discard(sock.fileno()) for sock, _ in pairs]
            watch.add(left.fileno(), one, READ)
        for _, right in pairs:
            right.send(b"x")
        await until(lambda: any(one.events for one in heard))
        await asyncio.sleep(0.01)
        assert sum(len(one.events) for one in heard) == 1
        watch.close()
        for sock in (each for pair in pairs for each in pair):
            sock.close()

    run(main())


def test_a_reset_is_told_though_nothing_is_asked_for():
    async def main():
        watch = poller(asyncio.get_running_loop())
        assert isinstance(watch, EpollPoller)
        left, right = tcp_pair()
        heard = Heard(lambda: watch.discard(left.fileno()))
        watch.add(left.fileno(), heard, 0)
        reset(right)
        await until(lambda: heard.events)
        assert heard.events[0] & BROKEN
        watch.close()
        watch.close()
        left.close()

    run(main())


def test_closing_gives_the_loop_back_what_it_lent():
    async def main():
        loop = asyncio.get_running_loop()
        left, right = socket.socketpair()
        watch = LoopPoller(loop)
        watch.add(left.fileno(), Heard(), READ | WRITE)
        watch.close()
        assert not loop.remove_reader(left.fileno())
        assert not loop.remove_writer(left.fileno())
        left.close()
        right.close()

    run(main())
