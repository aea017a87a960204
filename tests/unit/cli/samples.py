"""One event of each kind, with every field filled in."""

from __future__ import annotations

from pt.identity.keys import PrivateKey
from pt.identity.peer_id import PeerId
from pt.tunnel import events as ev
from pt.wire.multiaddr import Multiaddr

PEER = PeerId.from_public_key(PrivateKey.generate(bytes(32)).public)
PUBLIC = Multiaddr.parse(f"/ip4/203.0.112.9/tcp/4001/p2p/{PEER}")
LAN = Multiaddr.parse(f"/ip4/192.168.1.7/tcp/4001/p2p/{PEER}")
LOOPBACK = Multiaddr.parse(f"/ip4/127.0.0.1/tcp/4001/p2p/{PEER}")
COMMAND = "pt bind --port 2022 --id x.y"

READY_TCP = ev.Ready(
    peer_id=PEER, addresses=(LOOPBACK, LAN, PUBLIC), bind_command=COMMAND, outside=True
)
READY_BIND = ev.Ready(peer_id=PEER, ports=(ev.BoundPort(local=2022, remote=22),))

EVENTS: tuple[ev.Event, ...] = (
    ev.Started(peer_id=PEER, name="x.y", strength="weak: about 12 bits", addresses=(LAN,)),
    ev.Published(medium="lan", ok=True, detail="2 interfaces", seconds=0.25),
    READY_TCP,
    READY_BIND,
    ev.Reachable(addresses=(LAN, PUBLIC), bind_command=COMMAND),
    ev.LookingUp(media=("lan", "peer")),
    ev.Searched(medium="amino", ok=False, detail="no server of the DHT answered", seconds=2.5),
    ev.Progress(
        medium="amino",
        calls=2,
        asked=24,
        answered=20,
        failed=1,
        stored=3,
        bytes=96_123,
        sockets=14,
        seconds=1.25,
        done=True,
        cut=True,
    ),
    ev.Found(peer_id=PEER, medium="lan", addresses=(LAN,), seconds=0.123456789),
    ev.Pinned(peer_id=PEER),
    ev.Punched(ok=True, strategy="birthday", seconds=0.31, detail=str(PUBLIC)),
    ev.Mapped(
        ok=True,
        service="PCP",
        protocol="udp",
        internal="192.168.1.2:4001",
        external="11.5.0.2:4001",
        outside="verified",
        detail="found there from outside: published",
    ),
    ev.AddressReachability(
        address=PUBLIC,
        reachable=True,
        published=True,
        detail="servers outside have dialed it: published",
    ),
    ev.Connected(peer_id=PEER, path="direct/tcp", address=LAN, rtt=0.023, suite="AES-GCM"),
    ev.Disconnected(peer_id=PEER, reason="no answer for 8 s"),
    ev.Retrying(delay=1.5, reason="connection refused"),
    ev.Resumed(peer_id=PEER, streams=2, seconds=0.4),
    ev.StreamOpened(stream=7, peer_id=PEER, port=22),
    ev.StreamClosed(stream=7, sent=1_234_567, received=48, seconds=389.0, reason="reset"),
    ev.StreamRefused(stream=8, port=80, code="refused", reason="127.0.0.1:80 refuses"),
    ev.Rejected(reason="does not know the name", peer_id=PEER, address=LAN),
    ev.Warned(message="the disk is nearly full"),
    ev.Stopped(reason="told to"),
)
