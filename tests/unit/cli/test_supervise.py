from __future__ import annotations

import argparse
import asyncio
import os
import signal
import subprocess
import sys
import textwrap

import pytest

from pt.cli.notify import Notifier
from pt.cli.render import Renderer
from pt.cli.supervise import run_tunnel
from pt.errors import NotFoundError
from tests.unit.cli.samples import READY_BIND


class FakeTunnel:
    """Does what the test says at `start` and `wait`; remembers what it was asked."""

    def __init__(self, on_event, *, at_wait=None, at_start=None) -> None:
        self.on_event = on_event
        self.at_wait = at_wait
        self.at_start = at_start
        self.calls: list[object] = []

    async def start(self) -> None:
        self.calls.append("start")
        if self.at_start:
            self.at_start()
            await asyncio.Event().wait()
        self.on_event(READY_BIND)

    async def wait(self) -> None:
        self.calls.append("wait")
        if self.at_wait:
            self.at_wait()
            await asyncio.Event().wait()

    async def drain(self, seconds: float) -> None:
        self.calls.append(("drain", seconds))

    async def close(self) -> None:
        self.calls.append("close")


def options(**given: object) -> argparse.Namespace:
    return argparse.Namespace(
        **{"json": False, "quiet": False, "verbose": 0, "trace": None} | given
    )


def supervise(drain: float = 5, **behaviour: object) -> tuple[int, FakeTunnel]:
    made: list[FakeTunnel] = []

    def make(on_event) -> FakeTunnel:
        made.append(FakeTunnel(on_event, **behaviour))
        return made[0]

    code = run_tunnel(make, renderer=Renderer(options()), notifier=Notifier(), drain=drain)
    return code, made[0]


def killing(number: int):
    return lambda: os.kill(os.getpid(), number)


def test_the_end_of_the_tunnel_is_success() -> None:
    code, tunnel = supervise()
    assert code == 0
    assert tunnel.calls == ["start", "wait", "close"]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_drains_then_closes(number: int, code: int) -> None:
    got, tunnel = supervise(at_wait=killing(number))
    assert got == code
    assert tunnel.calls == ["start", "wait", ("drain", 5), "close"]


def test_no_drain_time_means_none() -> None:
    code, tunnel = supervise(drain=0, at_wait=killing(signal.SIGTERM))
    assert code == 143
    assert tunnel.calls == ["start", "wait", "close"]


def test_a_signal_before_the_start_is_done_does_not_drain() -> None:
    code, tunnel = supervise(at_start=killing(signal.SIGINT))
    assert code == 130
    assert tunnel.calls == ["start", "close"]


def test_an_error_closes_and_is_raised(capfd: pytest.CaptureFixture) -> None:
    class Failing(FakeTunnel):
        async def wait(self) -> None:
            raise NotFoundError("nobody is called x")

    made: list[Failing] = []

    def make(on_event) -> Failing:
        made.append(Failing(on_event))
        return made[0]

    with pytest.raises(NotFoundError):
        run_tunnel(make, renderer=Renderer(options(json=True)), notifier=Notifier(), drain=5)
    assert made[0].calls == ["start", "close"]
    last = capfd.readouterr().out.splitlines()[-1]
    assert '"event":"error"' in last
    assert '"exit_code":3' in last


SLOW_DRAIN = """
    import asyncio, os, signal, sys
    from tests.unit.cli.test_supervise import FakeTunnel, options
    from pt.cli import supervise
    from pt.cli.render import Renderer
    from pt.cli.notify import Notifier

    class Slow(FakeTunnel):
        async def wait(self):
            os.kill(os.getpid(), signal.SIGTERM)
            await asyncio.Event().wait()
        async def drain(self, seconds):
            os.kill(os.getpid(), signal.SIGINT)
            await asyncio.Event().wait()

    sys.exit(supervise.run_tunnel(
        Slow, renderer=Renderer(options()), notifier=Notifier(), drain=60))
"""


def test_a_second_signal_ends_at_once() -> None:
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(SLOW_DRAIN)],
        timeout=20,
        capture_output=True,
        check=False,
    )
    assert done.returncode == 143, done.stderr
