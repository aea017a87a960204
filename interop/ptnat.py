"""The interop peer that is us, behind a NAT: hole punching with libp2p peers, and AutoNAT v2.

    python -m interop.ptnat listen --relay MULTIADDR [--quic]
    python -m interop.ptnat dial --to CIRCUIT [--quic]
    python -m interop.ptnat autonat --to MULTIADDR [--quic]

Standard output carries one JSON line for each fact; everything else goes to standard error.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import signal
import sys
import time
from typing import Final

from pt.aio.muxed import MuxedStream
from pt.autonat.aio import DialBacks, ask
from pt.autonat.messages import DIAL_BACK, DIAL_REQUEST
from pt.autonat.observed import Observed
from pt.dcutr import PROTOCOL, Role
from pt.dcutr.aio import initiate, open_udp, respond
from pt.errors import PtError
from pt.identity.keys import PrivateKey
from pt.identity.peer_id import PeerId
from pt.node.circuits import Circuits
from pt.node.connection import Connection
from pt.node.node import Node
from pt.node.relays import Relays
from pt.node.route import Route
from pt.node.upgrade import SECURITY
from pt.trace import Tracer
from pt.wire.multiaddr import Multiaddr

LISTEN: Final = {False: "/ip4/0.0.0.0/tcp/{}", True: "/ip4/0.0.0.0/udp/{}/quic-v1"}
HANDSHAKE: Final = 5.0
RETRY: Final = 0.05


def report(**facts: object) -> None:
    print(json.dumps(facts), flush=True)


class Puncher:
    """A node that notes where it is seen, and makes direct connections in both roles."""

    def __init__(self, *, quic: bool, port: int) -> None:
        self.tracer = Tracer(sys.stderr, time.monotonic, time.time())
        self.node = Node(
            identity=PrivateKey.generate(os.urandom(32)),
            listen=[Multiaddr.parse(LISTEN[quic].format(port))],
            agent="interop-peer-pt",
            tracer=self.tracer,
        )
        self.observed = Observed()
        self.backs = DialBacks()
        self.begun = time.monotonic()
        self._direct: dict[PeerId, asyncio.Future[Connection]] = {}
        self._punched: set[Connection] = set()
        self.node.on_connection.append(self._connected)
        self.node.on_identified.append(self._identified)
        self.node.handle(PROTOCOL, self._asked, limited=True)
        self.node.handle(DIAL_BACK, self._dialed_back)

    async def start(self) -> None:
        await self.node.start()
        self.observed.listening(self.node.addresses)

    # --- what is seen --------------------------------------------------------------------------

    def _connected(self, connection: Connection) -> None:
        relayed = connection.relay is not None
        report(
            connected=str(connection.remote_addr),
            peer=str(connection.peer_id),
            relayed=relayed,
            outbound=connection.initiator,
            seconds=time.monotonic() - self.begun,
        )
        waiting = self._direct.get(connection.peer_id)
        if not relayed and waiting is not None and not waiting.done():
            waiting.set_result(connection)

    def _identified(self, connection: Connection) -> None:
        said = connection.identified
        if said is None:
            return
        if connection.relay is None:
            if said.observed is not None:
                self.observed.record(
                    connection, connection.local_addr, connection.remote_addr, said.observed
                )
        elif not connection.initiator and connection not in self._punched:
            self._punched.add(connection)
            if PROTOCOL in said.protocols:
                self.node.spawn(self._initiate(connection))

    # --- hole punching -------------------------------------------------------------------------

    async def _initiate(self, connection: Connection) -> None:
        peer = connection.peer_id
        with contextlib.suppress(PtError, OSError, TimeoutError):
            direct = await initiate(
                lambda: connection.open_stream((PROTOCOL,), limited=True),
                self.observed.addresses,
                lambda addresses, role: self._dial(peer, addresses, role),
                tracer=self.tracer,
            )
            await self._prove(direct)

    async def _asked(self, stream: MuxedStream, connection: Connection) -> None:
        peer = connection.peer_id
        direct = await respond(
            stream,
            self.observed.addresses(),
            lambda addresses, role: self._dial(peer, addresses, role),
            relayed_by_us=connection.relay is not None and connection.initiator,
            tracer=self.tracer,
        )
        await self._prove(direct)

    async def _prove(self, direct: Connection) -> None:
        report(direct=str(direct.remote_addr), path=direct.path, ping=await direct.ping())

    async def _dial(self, peer: PeerId, addresses: tuple[Multiaddr, ...], role: Role) -> Connection:
        """All at once, until the first works; one that the peer makes counts as well."""
        inbound: asyncio.Future[Connection] = asyncio.get_running_loop().create_future()
        self._direct[peer] = inbound
        tasks = [asyncio.ensure_future(self._try(each, peer, role)) for each in addresses]
        everything: set[asyncio.Future[Connection]] = {inbound, *tasks}
        try:
            while everything:
                done, everything = await asyncio.wait(
                    everything, return_when=asyncio.FIRST_COMPLETED
                )
                for each in done:
                    if each.exception() is None:
                        return each.result()
        finally:
            for task in tasks:
                task.cancel()
            self._direct.pop(peer, None)
        raise TimeoutError

    async def _try(self, address: Multiaddr, peer: PeerId, role: Role) -> Connection:
        if address.transport == "quic-v1":
            if role is Role.CLIENT:
                return await self.node.dial_one(address, peer, (SECURITY,))
            host, port, udp = address.host, address.udp_port, self.node.quic.udp
            assert host is not None
            assert port is not None
            assert udp is not None
            await open_udp(udp, (host[1], port))
            raise TimeoutError
        while True:
            try:
                return await self._try_tcp(address, peer, role)
            except (PtError, OSError, TimeoutError) as error:
                self.tracer.emit("punch_tcp_failed", address=str(address), reason=str(error))
                await asyncio.sleep(RETRY)

    async def _try_tcp(self, address: Multiaddr, peer: PeerId, role: Role) -> Connection:
        sock = await self.node.dial_socket(address)
        try:
            async with asyncio.timeout(HANDSHAKE):
                return await self.node.adopt(
                    sock, Route(address), initiator=role is Role.CLIENT, expected=peer
                )
        except BaseException:
            sock.close()
            raise

    # --- AutoNAT -------------------------------------------------------------------------------

    async def _dialed_back(self, stream: MuxedStream, connection: Connection) -> None:
        await self.backs.answer(stream, connection.local_addr)


async def stopped() -> None:
    """Wait for a signal; the relay is told goodbye then, or it would keep our place for a while."""
    done = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, done.set)
    await done.wait()


async def listen(relay: str, *, quic: bool, port: int) -> None:
    punch = Puncher(quic=quic, port=port)
    address = Multiaddr.parse(relay)
    relays = Relays(punch.node, given=[address], want=1, meet=False)
    await punch.start()
    relays.start()
    await relays.wait_first(25)
    circuit = address.through_circuit().with_peer(punch.node.peer_id.raw)
    report(multiaddr=str(circuit))
    await stopped()
    await punch.node.close()
    await relays.close()


async def dial(to: str, *, quic: bool, port: int) -> None:
    punch = Puncher(quic=quic, port=port)
    circuits = Circuits(punch.node)
    await punch.start()
    circuit = Multiaddr.parse(to)
    relay, _ = circuit.split_circuit()
    via = await circuits.relay_connection(relay)
    await via.identify()
    punch.begun = time.monotonic()
    await punch.node.connect(circuit)
    await stopped()
    await punch.node.close()


async def autonat(to: str, *, quic: bool, port: int) -> None:
    punch = Puncher(quic=quic, port=port)
    await punch.start()
    server = await punch.node.connect(Multiaddr.parse(to))
    observed = (await server.identify()).observed
    assert observed is not None
    stream = await server.open_stream((DIAL_REQUEST,))
    verdict = await ask(stream, [observed], punch.backs)
    report(address=str(observed), reachable=verdict.reachable, reason=verdict.reason)
    await punch.node.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("command", choices=["listen", "dial", "autonat"])
    parser.add_argument("--relay", default="")
    parser.add_argument("--to", default="")
    parser.add_argument("--quic", action="store_true")
    parser.add_argument("--port", type=int, default=4300)
    args = parser.parse_args()
    if args.command == "listen":
        asyncio.run(listen(args.relay, quic=args.quic, port=args.port))
    else:
        run = {"dial": dial, "autonat": autonat}[args.command]
        asyncio.run(run(args.to, quic=args.quic, port=args.port))


if __name__ == "__main__":
    main()
