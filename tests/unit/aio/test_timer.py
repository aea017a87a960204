from __future__ import annotations

import asyncio

from pt.aio.timer import Timer
from tests.sim.loop import run


class Machine:
    """Wants to be called at `at`; each call takes the next of `plan`."""

    def __init__(self, *plan: float | None) -> None:
        self.loop = asyncio.get_running_loop()
        self.start = self.loop.time()
        self.plan = list(plan)
        self.at: float | None = None
        self.fired: list[float] = []
        self.then = 0
        self.looked = 0
        self.next()
        self.timer = Timer(self.when, self.fire, self.done)

    def next(self) -> None:
        step = self.plan.pop(0) if self.plan else None
        self.at = None if step is None else self.start + step

    def when(self) -> float | None:
        self.looked += 1
        return self.at

    def fire(self) -> None:
        now = self.loop.time()
        assert self.at is not None
        if now < self.at:
            return  # early
        self.fired.append(round(now - self.start, 3))
        self.next()

    def done(self) -> None:
        self.then += 1


def test_it_fires_when_the_machine_says_so() -> None:
    async def main() -> None:
        machine = Machine(1.0, 3.0, 3.5)
        await asyncio.sleep(2)
        assert machine.fired == []  # nobody has armed it
        machine.timer.arm()
        await asyncio.sleep(10)
        assert machine.fired == [2.0, 3.0, 3.5]
        assert machine.then == 3
        machine.at = machine.start + 20
        machine.timer.arm()
        await asyncio.sleep(10)
        assert machine.fired[3:] == [20.0]

    run(main())


def test_a_deadline_that_comes_nearer_is_kept() -> None:
    async def main() -> None:
        machine = Machine(5.0)
        machine.timer.arm()
        machine.at = machine.start + 1
        machine.timer.arm()
        await asyncio.sleep(10)
        assert machine.fired == [1.0]

    run(main())


def test_a_deadline_that_moves_back_costs_no_timer_each_time() -> None:
    async def main() -> None:
        machine = Machine(1.0)
        machine.timer.arm()
        for turn in range(100):
            machine.at = machine.start + 1 + turn / 100
            machine.timer.arm()
        await asyncio.sleep(10)
        assert machine.fired == [1.99]
        assert machine.then == 2  # once at the first deadline, too early

    run(main())


def test_nothing_to_wait_for() -> None:
    async def main() -> None:
        machine = Machine(1.0)
        machine.timer.arm()
        machine.at = None
        machine.timer.arm()
        await asyncio.sleep(5)
        assert machine.then == 0

    run(main())


def test_a_closed_timer_is_silent() -> None:
    async def main() -> None:
        machine = Machine(1.0)
        machine.timer.arm()
        machine.timer.close()
        machine.timer.close()
        machine.timer.arm()
        await asyncio.sleep(5)
        assert machine.then == 0

    run(main())


def test_it_may_be_closed_while_it_fires() -> None:
    async def main() -> None:
        machine = Machine(1.0, 2.0)
        machine.timer._then = machine.timer.close
        machine.timer.arm()
        await asyncio.sleep(5)
        assert machine.fired == [1.0]

    run(main())


def test_a_machine_that_raises_is_called_again() -> None:
    async def main() -> None:
        told = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context))
        machine = Machine(1.0, 2.0)

        def bug() -> None:
            if len(machine.fired) == 1:
                raise RuntimeError("a bug")

        machine.timer._then = bug
        machine.timer.arm()
        await asyncio.sleep(5)
        assert machine.fired == [1.0, 2.0]
        assert len(told) == 1

    run(main())
