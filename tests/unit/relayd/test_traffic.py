from __future__ import annotations

import asyncio

from pt.relay.shaper import Shaper
from pt.relayd.traffic import STEP, SWEEP, TIME_UP, Traffic
from tests.sim.loop import run


class Circuit:
    def __init__(self, traffic: Traffic) -> None:
        self.traffic = traffic
        self.closed: list[tuple[float, str]] = []

    def close(self, reason: str) -> None:
        self.closed.append((self.traffic.loop.time(), reason))
        self.traffic.forget(self)


def test_what_is_not_shaped_is_granted_without_asking():
    async def main():
        traffic = Traffic(asyncio.get_running_loop())
        share = traffic.shaper.add("owner")
        assert traffic.take(share, 10**9) == 10**9
        traffic.refund(share, 10**9)
        traffic.close()

    run(main())


def test_whoever_is_parked_is_woken_when_it_is_its_turn():
    async def main():
        loop = asyncio.get_running_loop()
        traffic = Traffic(loop, Shaper(rate=10_000))
        share = traffic.shaper.add("owner")
        began = loop.time()
        moved = 0
        turns = 0
        woken = asyncio.Event()
        while moved < 200_000:
            got = traffic.take(share, 50_000)
            moved += got
            if not got:
                turns += 1
                woken.clear()
                traffic.park(share, woken.set)
                await woken.wait()
        assert 12 < loop.time() - began < 21  # the burst passed at once
        assert turns <= (loop.time() - began) / STEP
        traffic.close()

    run(main())


def test_other_rates_wake_those_who_wait():
    async def main():
        loop = asyncio.get_running_loop()
        traffic = Traffic(loop, Shaper(rate=1))
        share = traffic.shaper.add("owner")
        while traffic.take(share, 10_000):
            pass
        woken = asyncio.Event()
        traffic.park(share, woken.set)
        await asyncio.sleep(100)
        assert not woken.is_set()
        began = loop.time()
        traffic.set_rates(0, 0)
        await woken.wait()
        assert loop.time() - began < 0.1
        traffic.close()

    run(main())


def test_after_closing_nobody_is_woken():
    async def main():
        traffic = Traffic(asyncio.get_running_loop(), Shaper(rate=1000))
        share = traffic.shaper.add("owner")
        while traffic.take(share, 10_000):
            pass
        woken = []
        traffic.park(share, lambda: woken.append(1))
        traffic.close()
        traffic.set_rates(0, 0)
        await asyncio.sleep(1000)
        assert woken == []

    run(main())


def test_a_circuit_is_closed_when_its_time_is_up_and_only_then():
    async def main():
        loop = asyncio.get_running_loop()
        traffic = Traffic(loop)
        began = loop.time()
        circuits = [Circuit(traffic) for _ in range(4)]
        for circuit, seconds in zip(circuits, (30, 10, 20, 10), strict=True):
            traffic.end_in(circuit, seconds)
        traffic.forget(circuits[3])
        traffic.forget(circuits[3])
        await asyncio.sleep(100)
        for circuit, seconds in zip(circuits[:3], (30, 10, 20), strict=True):
            ((at, reason),) = circuit.closed
            assert reason == TIME_UP
            assert seconds <= at - began <= seconds + SWEEP + 0.01
        assert circuits[3].closed == []
        again = Circuit(traffic)
        traffic.end_in(again, 1)
        await asyncio.sleep(2)
        assert len(again.closed) == 1
        traffic.close()

    run(main())


def test_circuits_without_an_end_cost_no_timer():
    async def main():
        traffic = Traffic(asyncio.get_running_loop())
        circuit = Circuit(traffic)
        traffic.end_in(circuit, 5)
        traffic.forget(circuit)
        await asyncio.sleep(1)
        assert traffic._sweep is None
        traffic.close()

    run(main())


def test_turns_are_taken_together_before_the_loop_waits_again():
    async def main():
        traffic = Traffic(asyncio.get_running_loop())
        turns = []
        traffic.soon(lambda: (turns.append("a"), traffic.soon(lambda: turns.append("later"))))
        traffic.soon(lambda: turns.append("b"))
        assert turns == []
        await asyncio.sleep(0)
        assert turns == ["a", "b"]
        await asyncio.sleep(0)
        assert turns == ["a", "b", "later"]
        traffic.close()

    run(main())


def test_a_turn_that_fails_does_not_cost_the_others_theirs():
    async def main():
        loop = asyncio.get_running_loop()
        failures = []
        loop.set_exception_handler(lambda _, context: failures.append(context["exception"]))
        traffic = Traffic(loop)
        turns = []
        traffic.soon(lambda: turns.append("a"))
        traffic.soon(lambda: turns.append(1 / 0))
        traffic.soon(lambda: turns.append("b"))
        traffic.soon(lambda: turns.append(1 / 0))
        traffic.soon(lambda: turns.append("c"))
        await asyncio.sleep(0.1)
        assert turns == ["a", "b", "c"]
        assert [type(each) for each in failures] == [ZeroDivisionError] * 2
        traffic.close()

    run(main())
