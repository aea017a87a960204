"""A node that asks a relay whether its own addresses can be dialed; prints one JSON line.

python -m tests.e2e.autonat_peer RELAY TRANSPORT [MORE-ADDRESSES…]
"""

from __future__ import annotations

import asyncio
import json
import os
import sys

from pt.autonat.aio import DialBacks, ask
from pt.autonat.messages import DIAL_BACK, DIAL_REQUEST
from pt.identity.keys import PrivateKey
from pt.node.node import Node
from pt.wire.multiaddr import Multiaddr

LISTEN = {"tcp": "/ip4/0.0.0.0/tcp/4100", "quic-v1": "/ip4/0.0.0.0/udp/4100/quic-v1"}


async def main(relay: str, transport: str, *more: str) -> None:
    backs = DialBacks()
    node = Node(
        identity=PrivateKey.generate(os.urandom(32)), listen=[Multiaddr.parse(LISTEN[transport])]
    )
    node.handle(DIAL_BACK, lambda stream, conn: backs.answer(stream, conn.local_addr))
    await node.start()
    connection = await node.connect(Multiaddr.parse(relay))
    observed = (await connection.identify()).observed
    assert observed is not None
    addresses = [*(Multiaddr.parse(each) for each in more), observed]
    stream = await connection.open_stream((DIAL_REQUEST,))
    verdict = await ask(stream, addresses, backs)
    result = {
        "observed": str(observed),
        "address": None if verdict.address is None else str(verdict.address),
        "reachable": verdict.reachable,
        "status": verdict.status.name,
        "reason": verdict.reason,
        "sent": connection.link.bytes_out,
    }
    print(json.dumps(result), flush=True)
    await node.close()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
