from __future__ import annotations

import asyncio

import pytest

from pt.identity.keys import PrivateKey
from pt.multistream.negotiation import UnsupportedError
from pt.node.node import Node
from pt.tunnel import authenticate
from pt.wire.multiaddr import Multiaddr


@pytest.mark.parametrize("transport", ["tcp", "quic"])
def test_a_peer_that_is_no_pt_is_told_apart_from_one_that_breaks_off(transport: str) -> None:
    """It may drop its no together with the stream, on which a proof came that it cannot read."""

    async def main() -> None:
        listen = Multiaddr.tcp if transport == "tcp" else Multiaddr.quic
        other = Node(identity=PrivateKey.generate(b"o" * 32), listen=(listen("127.0.0.1", 0),))
        ours = Node(identity=PrivateKey.generate(b"u" * 32))
        await other.start()
        await ours.start()
        ours.quic.listen([("127.0.0.1", 0)])
        (address,) = other.addresses
        connection = await ours.connect([address], expected=other.peer_id)
        with pytest.raises(UnsupportedError, match="peertunnel"):
            await authenticate.ask_session(connection, bytes(32))
        await ours.close()
        await other.close()

    asyncio.run(asyncio.wait_for(main(), 20))
