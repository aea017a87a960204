"""Two services behind one name, each with a local port; what happens is told by events."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path

import pt
from pt.tunnel.config import Service
from pt.tunnel.events import Connected, Event, StreamClosed


async def serving(greeting: bytes) -> asyncio.Server:
    async def greet(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(greeting)
        writer.close()
        await writer.wait_closed()

    return await asyncio.start_server(greet, "127.0.0.1", 0)


def tell(event: Event) -> None:
    if isinstance(event, (Connected, StreamClosed)):
        print("event:", event)


async def main() -> None:
    day, night = await serving(b"good day\n"), await serving(b"good night\n")
    services = [
        Service(port=number, target_port=server.sockets[0].getsockname()[1])
        for number, server in ((1001, day), (1002, night))
    ]
    with tempfile.TemporaryDirectory() as homes:
        one, other = Path(homes) / "one", Path(homes) / "other"
        async with (
            day,
            night,
            pt.expose(
                services, listen="/ip4/127.0.0.1/tcp/0", lan=False, public=False, home=one
            ) as exposed,
            await pt.connect(
                exposed.name,
                peer=exposed.addresses,
                lan=False,
                public=False,
                home=other,
                on_event=tell,
            ) as tunnel,
        ):
            for number in (1001, 1002):
                port = await tunnel.listen(remote_port=number)
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                print(f"port {number} says:", (await reader.read()).decode().strip())
                writer.close()
                await writer.wait_closed()


asyncio.run(main())
