"""One side of LAN discovery as a process: `python -m tests.e2e.lan_peer publish|browse [ARG …]`.

    publish INSTANCE SEALED_BYTES [MULTIADDR …]   until SIGTERM, then says goodbye
    browse                                        until SIGTERM

JSON lines on stdout; `at` is the machine's monotonic clock, common to all hosts of a laboratory.
"""

from __future__ import annotations

import asyncio
import json
import signal
import sys
import time

from pt.errors import NetworkError
from pt.rendezvous.lan import LanBrowser, LanPublisher, LanRecord
from pt.wire.multiaddr import Multiaddr


def say(event: str, **facts: object) -> None:
    print(json.dumps({"event": event, "at": time.monotonic(), **facts}), flush=True)


def heard(record: LanRecord) -> None:
    say(
        "heard",
        instance=record.instance,
        addresses=[str(address) for address in record.addresses],
        sealed=None if record.sealed is None else record.sealed.hex(),
        ttl=record.ttl,
    )


async def main(role: str, *args: str) -> None:
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    peer: LanPublisher | LanBrowser
    if role == "publish":
        instance, size, *texts = args
        addresses = [Multiaddr.parse(text) for text in texts]
        peer = LanPublisher(instance, addresses, bytes(range(256)) * 3, 4001)
        await peer.update(addresses, (bytes(range(256)) * 3)[: int(size)] or None)
    else:
        peer = LanBrowser(heard)
    say("starting")
    try:
        await peer.start()
    except NetworkError as error:
        say("failed", reason=str(error))
        return
    say("started")
    await stop.wait()
    await peer.close()
    say("closed")


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
