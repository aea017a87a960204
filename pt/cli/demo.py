"""`pt demo`: a service, a relay, `pt tcp` and `pt bind`, all here; nothing leaves the machine."""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
import time
from dataclasses import dataclass, field
from typing import Final

from pt.cli.demo_traffic import DemoService, Transfer, get_with_half_close
from pt.cli.jsonlines import dumps
from pt.cli.options import wants_json
from pt.cli.output import use_colour
from pt.cli.pair import Pair, embedded_pair
from pt.cli.text import BOLD, GREEN, RED, RESET, duration
from pt.errors import UsageError
from pt.tunnel.config import Service
from pt.tunnel.events import Connected, Event, Resumed

__all__ = ["add_arguments", "run"]

MIB: Final = 1024 * 1024
DEFAULT_MIB: Final = 64
SERVICE_PORT: Final = 80
RESUME_TIMEOUT: Final = 20.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument(
        "--size",
        metavar="MIB",
        type=int,
        default=DEFAULT_MIB,
        help="data to move each way (default: %(default)s)",
    )
    parser.add_argument(
        "--seconds", metavar="N", type=float, help="move data for N seconds instead of a size"
    )
    parser.add_argument(
        "--hold", action="store_true", help="keep the tunnel up afterwards, to try it by hand"
    )
    parser.add_argument("--json", action="store_true", help="JSON lines (env PT_JSON=1)")


def run(args: argparse.Namespace) -> int:
    """Tell the story; 1 if a step failed."""
    if args.size < 1:
        raise UsageError("--size is at least 1 MiB")
    if args.seconds is not None and args.seconds <= 0:
        raise UsageError("--seconds must be more than 0")
    return asyncio.run(_Demo(args, _Story(as_json=wants_json(args))).run())


class _Story:
    """Numbered steps as text, or one JSON line each."""

    def __init__(self, *, as_json: bool) -> None:
        self._json = as_json
        self._colour = use_colour(sys.stdout)
        self._number = 0
        self.failed = False

    def say(self, text: str) -> None:
        if not self._json:
            print(text, flush=True)

    def step(self, step: str, text: str, ok: bool = True, **facts: object) -> None:
        self._number += 1
        self.failed = self.failed or not ok
        if self._json:
            line = {"step": step, "ok": ok, "detail": text, **facts}
            print(dumps("demo", time.time(), line), flush=True)
            return
        mark = self._paint("✓", GREEN) if ok else self._paint("✗", RED)
        print(f"{mark} {self._paint(step.ljust(10), BOLD)}{text}", flush=True)

    def _paint(self, text: str, colour: str) -> str:
        return f"{colour}{text}{RESET}" if self._colour else text


@dataclass
class _Seen:
    """What the binder told, for the story to tell."""

    paths: list[Connected] = field(default_factory=list)
    moved: asyncio.Event = field(default_factory=asyncio.Event)
    resumed: asyncio.Queue[Resumed] = field(default_factory=asyncio.Queue)

    def __call__(self, event: Event) -> None:
        if isinstance(event, Connected):
            self.paths.append(event)
            self.moved.set()
        elif isinstance(event, Resumed):
            self.resumed.put_nowait(event)


class _Demo:
    def __init__(self, args: argparse.Namespace, story: _Story) -> None:
        self._story = story
        self._hold: bool = args.hold
        self._size: int = args.size * MIB
        self._seconds: float | None = args.seconds

    async def run(self) -> int:
        # The transfers block in threads, which Ctrl-C does not reach: end without waiting.
        asyncio.get_running_loop().add_signal_handler(signal.SIGINT, _give_up)
        self._story.say("The main job of pt, all on this machine (127.0.0.1 only).\n")
        seen = _Seen()
        with DemoService() as service:
            self._story.step("service", f"a web and echo service on 127.0.0.1:{service.port}")
            started = time.monotonic()
            offered = Service(port=SERVICE_PORT, target_port=service.port)
            async with embedded_pair((offered,), relayed=True, on_binder=seen) as pair:
                self._introduce(pair, seen, time.monotonic() - started)
                await self._upgrade(seen)
                await self._get(pair)
                await self._bulk(pair)
                await self._cut(pair, seen)
                self._conclude()
                if self._hold:
                    await self._keep(pair)
        return int(self._story.failed)

    def _introduce(self, pair: Pair, seen: _Seen, seconds: float) -> None:
        story = self._story
        assert pair.relay is not None
        story.step("pt relay", f"peer {pair.relay.peer_id.short()}, for whoever is behind a NAT")
        peer = pair.exposer.peer_id.short()
        story.step("pt tcp", f"exposes it as “{pair.name}”, peer {peer}", name=pair.name)
        text = f"listens on 127.0.0.1:{pair.ports[0]}"
        if seen.paths:
            path = seen.paths[0]
            rtt = "" if path.rtt is None else f", round trip {duration(path.rtt)}"
            text += f"; path {path.path}{rtt}, Noise {path.suite}"
        story.step("pt bind", f"{text} (up in {duration(seconds)})", port=pair.ports[0])

    async def _upgrade(self, seen: _Seen) -> None:
        """The relay gave the first path; a direct one takes over."""
        started = time.monotonic()
        try:
            async with asyncio.timeout(RESUME_TIMEOUT):
                while seen.paths[-1].path.startswith("relay/"):
                    seen.moved.clear()
                    await seen.moved.wait()
        except TimeoutError:
            self._story.step("direct", "no direct path was found", ok=False)
            return
        took = duration(time.monotonic() - started)
        text = f"{seen.paths[-1].path} took over after {took}, the relay stays as a standby"
        self._story.step("direct", text, path=seen.paths[-1].path)

    async def _get(self, pair: Pair) -> None:
        started = time.monotonic()
        body, expected = await asyncio.to_thread(get_with_half_close, pair.ports[0])
        ok = body == expected
        text = f"GET, our side closed at once: the whole reply came ({len(body)} bytes, "
        text += f"{duration(time.monotonic() - started)})"
        self._story.step("http", text if ok else "the reply was cut short", ok, received=len(body))

    async def _bulk(self, pair: Pair) -> None:
        transfer = Transfer(pair.ports[0], self._size, self._seconds)
        await asyncio.to_thread(transfer.run)
        self._report("transfer", transfer, "")

    async def _cut(self, pair: Pair, seen: _Seen) -> None:
        transfer = Transfer(pair.ports[0], self._size, self._seconds)
        while not seen.resumed.empty():
            seen.resumed.get_nowait()
        moving = asyncio.create_task(asyncio.to_thread(transfer.run))
        await asyncio.to_thread(transfer.under_way.wait, RESUME_TIMEOUT)
        moved = transfer.received
        pair.binder.drop_connection()
        try:
            async with asyncio.timeout(RESUME_TIMEOUT):
                resumed = await seen.resumed.get()
            text = (
                f"path cut after {moved // MIB} MiB, {seen.paths[-1].path} took over in "
                f"{duration(resumed.seconds)}; "
            )
        except TimeoutError:
            self._story.step("cut", "the path was cut and did not come back", ok=False)
            transfer.abort()
            await moving
            return
        await moving
        self._report("cut", transfer, text)

    def _report(self, step: str, transfer: Transfer, prefix: str) -> None:
        if transfer.error:
            self._story.step(step, f"{prefix}{transfer.error}", ok=False)
            return
        rate = transfer.received * 8 / transfer.seconds / 1e9
        text = (
            f"{prefix}{transfer.received // MIB} MiB there and back, SHA-256 equal "
            f"({duration(transfer.seconds)}, {rate:.1f} Gbit/s each way)"
        )
        self._story.step(
            step, text, ok=True, bytes=transfer.received, seconds=transfer.seconds, gbit_s=rate
        )

    def _conclude(self) -> None:
        if self._story.failed:
            self._story.say("\nSomething failed, see above. Please report it with this output.")
            return
        self._story.say(
            "\nAll bytes arrived, in order, once. Now between two machines of one network:\n"
            "    on one:        pt tcp --port 22 --id NAME\n"
            "    on the other:  pt bind --port 2022 --id NAME    then: ssh -p 2022 user@127.0.0.1\n"
            "and behind NATs: pt relay on a machine that both reach, see docs/relay.md"
        )

    async def _keep(self, pair: Pair) -> None:
        url = f"http://127.0.0.1:{pair.ports[0]}/"
        self._story.say(f"\nHeld open. Try: curl {url}    (Ctrl-C ends)")
        await pair.binder.wait()


def _give_up() -> None:
    sys.stdout.flush()
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.raise_signal(signal.SIGINT)
