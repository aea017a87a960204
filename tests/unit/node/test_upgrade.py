from __future__ import annotations

import asyncio
import contextlib
import socket

import pytest

from pt.errors import ClosedError, CryptoFailure, ProtocolError, PtError
from pt.identity.keys import PrivateKey
from pt.identity.peer_id import PeerId
from pt.multistream.negotiation import UnsupportedError
from pt.node import upgrade as module
from pt.node.upgrade import PT_SECURITY, SECURITY, Upgraded, upgrade
from pt.noise.handshake import Suite
from pt.noise.upgrade import SecureHandshake

ALICE, BOB = PrivateKey.generate(b"a" * 32), PrivateKey.generate(b"b" * 32)
ALICE_ID, BOB_ID = PeerId.from_public_key(ALICE.public), PeerId.from_public_key(BOB.public)
BOTH = (PT_SECURITY, SECURITY)


@contextlib.contextmanager
def sockets():
    left, right = socket.socketpair()
    with left, right:
        left.setblocking(False)
        right.setblocking(False)
        yield left, right


def side(sock: socket.socket, *, initiator: bool, security=BOTH, expected=None):
    return upgrade(
        sock,
        initiator=initiator,
        identity=ALICE if initiator else BOB,
        static=(b"1" if initiator else b"2") * 32,
        expected=expected,
        security=security,
    )


def both(ours=BOTH, theirs=BOTH, expected=None) -> list[Upgraded | BaseException]:
    async def scenario() -> list[Upgraded | BaseException]:
        with sockets() as (left, right):

            async def closing(coro, sock):
                try:
                    return await coro
                except PtError:
                    sock.close()
                    raise

            async with asyncio.timeout(10):
                return await asyncio.gather(
                    closing(side(left, initiator=True, security=ours, expected=expected), left),
                    closing(side(right, initiator=False, security=theirs), right),
                    return_exceptions=True,
                )

    return asyncio.run(scenario())


def carries(source: Upgraded, sink: Upgraded) -> bool:
    out = memoryview(bytearray(100))
    size = source.sealer.seal_into(b"hello", out)
    return bytes(sink.opener.open(out[2:size])) == b"hello"


@pytest.mark.parametrize(
    ("ours", "theirs", "suite"),
    [
        (BOTH, BOTH, Suite.AESGCM),
        ((SECURITY,), BOTH, Suite.CHACHAPOLY),
        (BOTH, (SECURITY,), Suite.CHACHAPOLY),
        ((SECURITY, PT_SECURITY), BOTH, Suite.CHACHAPOLY),
    ],
)
def test_both_ends_agree(ours, theirs, suite) -> None:
    left, right = both(ours, theirs)
    assert isinstance(left, Upgraded)
    assert isinstance(right, Upgraded)
    assert left.secure.suite == right.secure.suite == suite
    assert (left.secure.peer_id, right.secure.peer_id) == (BOB_ID, ALICE_ID)
    assert left.secure.handshake_hash == right.secure.handshake_hash
    assert carries(left, right)
    assert carries(right, left)


def test_nothing_in_common() -> None:
    left, right = both((PT_SECURITY,), (SECURITY,))
    assert isinstance(left, UnsupportedError)
    assert isinstance(right, ClosedError)


@pytest.mark.parametrize("expected", [BOB_ID, ALICE_ID])
def test_the_peer_has_to_be_the_expected_one(expected) -> None:
    left, _ = both(expected=expected)
    assert isinstance(left, Upgraded if expected == BOB_ID else CryptoFailure)


@pytest.mark.parametrize("silent", ["initiator", "responder"])
def test_the_muxer_is_agreed_inside_when_one_side_names_none(silent, monkeypatch) -> None:
    """As rust-libp2p does: multistream-select inside the channel."""

    def without_muxers(suite, *, initiator, muxers, **rest):
        names = () if initiator == (silent == "initiator") else muxers
        return SecureHandshake(suite, initiator=initiator, muxers=names, **rest)

    monkeypatch.setattr(module, "SecureHandshake", without_muxers)
    left, right = both()
    assert isinstance(left, Upgraded)
    assert isinstance(right, Upgraded)
    assert left.secure.muxer is None
    assert carries(left, right)  # the counters of both ciphers are where they must be
    assert carries(right, left)


@pytest.mark.parametrize(
    "garbage",
    [
        b"GET / HTTP/1.1\r\nHost: example\r\n\r\n",
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500),
        b"\xff" * 4000,
        bytes(4000),
        b"\x13/multistream/1.0.0\n\x07/noise\n" + b"\xff\xff" + b"z" * 70000,
        b"\x13/multistream/1.0.0\n\x07/noise\n" + b"\x00\x00",
        b"\x13/multistream/1.0.0\n\x07/noise\n" + b"\x00\x20" + bytes(32) + b"\0\1x",
    ],
)
def test_garbage_is_refused(garbage) -> None:
    async def scenario() -> None:
        with sockets() as (left, right):
            answering = asyncio.ensure_future(side(right, initiator=False))
            with contextlib.suppress(OSError):
                await asyncio.get_running_loop().sock_sendall(left, garbage)
                left.shutdown(socket.SHUT_WR)
            async with asyncio.timeout(10):
                with pytest.raises((ProtocolError, ClosedError)):
                    await answering

    asyncio.run(scenario())


@pytest.mark.parametrize("cut", range(0, 250, 13))
def test_an_end_at_any_byte(cut) -> None:
    """The initiator's bytes stop somewhere: the responder ends with an error, never hangs."""

    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        with sockets() as (left, relay_left), sockets() as (relay_right, right):

            async def carry(source, sink, limit):
                with contextlib.suppress(OSError):
                    while data := await loop.sock_recv(source, 4096):
                        part = data[:limit]
                        limit -= len(part)
                        await loop.sock_sendall(sink, part)
                        if not limit:
                            break
                    sink.shutdown(socket.SHUT_WR)

            tasks = [
                asyncio.ensure_future(carry(relay_left, relay_right, cut)),
                asyncio.ensure_future(carry(relay_right, relay_left, 1 << 20)),
                asyncio.ensure_future(side(left, initiator=True)),
            ]
            async with asyncio.timeout(10):
                with pytest.raises(PtError):
                    await side(right, initiator=False)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    asyncio.run(scenario())
