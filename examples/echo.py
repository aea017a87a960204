"""Both ends in one program: expose a small echo service and talk to it through the tunnel.

Between two machines each half stays as it is; only `peer=`, `listen=`, `lan=False` and
`public=False` go: they keep this program off the network.
"""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path

import pt


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    writer.close()
    await writer.wait_closed()


async def main() -> None:
    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    with tempfile.TemporaryDirectory() as homes:
        one, other = Path(homes) / "one", Path(homes) / "other"
        async with (
            server,
            pt.expose(
                port, listen="/ip4/127.0.0.1/tcp/0", lan=False, public=False, home=one
            ) as exposed,
        ):
            print("exposed as", exposed.name)
            async with await pt.connect(
                exposed.name, peer=exposed.addresses, lan=False, public=False, home=other
            ) as tunnel:
                reader, writer = await tunnel.open()
                writer.write(b"hello through the tunnel\n")
                writer.write_eof()
                print("came back:", (await reader.read()).decode().strip())
                writer.close()
                await writer.wait_closed()


asyncio.run(main())
