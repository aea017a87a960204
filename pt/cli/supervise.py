"""Running a tunnel as a well-mannered process: start, wait, signals, drain, exit code.

The first SIGTERM or SIGINT stops accepting and lets open connections finish, at most the drain
time; the second ends the process on the spot. Either way the code is 128 + the first signal.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Callable
from typing import Final, Protocol

from pt.aio.loop import run
from pt.cli.notify import Notifier
from pt.cli.render import Renderer
from pt.errors import PtError
from pt.tunnel.events import Event, Warned

__all__ = ["Runnable", "run_tunnel"]

CLOSE_TIMEOUT: Final = 6.0
"""Seconds for farewells (GO_AWAY, goodbyes on media: 5 s at most) once nothing is left to carry."""
SILENT: Final = 0.2
"""Seconds of draining that need no explanation."""
SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)


class Runnable(Protocol):
    """What an exposer and a binder have in common."""

    async def start(self) -> None:
        """Begin; returns when the node runs."""

    async def wait(self) -> None:
        """Return, or raise, when there is nothing more to do."""

    async def drain(self, seconds: float) -> None:
        """Stop accepting; return when open streams have ended, or after `seconds`."""

    async def close(self) -> None:
        """End now."""


def run_tunnel(
    make: Callable[[Callable[[Event], None]], Runnable],
    *,
    renderer: Renderer,
    notifier: Notifier,
    drain: float,
    on_hangup: Callable[[], None] | None = None,
) -> int:
    """Run the tunnel that `make(on_event)` returns until it ends or is told to; the exit code.

    `on_hangup` is called for each SIGHUP; a `PtError` that it raises is a warning.

    Raises:
        PtError: what ended the tunnel; it has been shown as JSON already.

    """

    def on_event(event: Event) -> None:
        renderer(event)
        notifier(event)

    def reload() -> None:
        assert on_hangup is not None
        try:
            on_hangup()
        except PtError as error:
            on_event(Warned(message=f"nothing was changed: {error}"))

    hangup = None if on_hangup is None else reload
    try:
        return run(_supervise(make(on_event), renderer, notifier, drain, hangup))
    except PtError as error:
        renderer.failed(error)
        raise
    finally:
        renderer.close()


async def _supervise(
    tunnel: Runnable,
    renderer: Renderer,
    notifier: Notifier,
    drain: float,
    hangup: Callable[[], None] | None,
) -> int:
    loop = asyncio.get_running_loop()
    told: asyncio.Future[None] = loop.create_future()
    first = signal.SIGTERM

    def on_signal(number: signal.Signals) -> None:
        nonlocal first
        if told.done():
            os._exit(128 + first)  # asked twice: no farewells
        first = number
        told.set_result(None)

    for number in SIGNALS:
        loop.add_signal_handler(number, on_signal, number)
    if hangup is not None:
        loop.add_signal_handler(signal.SIGHUP, hangup)
    started = False

    async def work() -> None:
        nonlocal started
        await tunnel.start()
        started = True
        await tunnel.wait()

    task = asyncio.create_task(work())
    try:
        await asyncio.wait({task, told}, return_when=asyncio.FIRST_COMPLETED)
        notifier.stopping()
        if not told.done():
            task.result()  # raises what ended it
            return 0
        if started and not task.done() and drain > 0:
            await _drain(tunnel, drain, renderer)
        return 128 + first
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError, PtError):
            await task
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_TIMEOUT):
                await tunnel.close()


async def _drain(tunnel: Runnable, seconds: float, renderer: Renderer) -> None:
    """Drain, and say so if it is not over at once."""
    draining = asyncio.ensure_future(tunnel.drain(seconds))
    done, _ = await asyncio.wait({draining}, timeout=SILENT)
    if not done:
        renderer.heading(
            f"stopping: open connections have {seconds:g} s to finish; Ctrl-C ends them at once"
        )
    await draining
