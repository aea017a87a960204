"""The hop service against clients that are wrong, slow, greedy or gone."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from pathlib import Path

import pytest

from pt.errors import PtError, ResetError
from pt.identity.peer_id import PeerId
from pt.node.route import Route
from pt.relay import aio as relay_aio
from pt.relay import raw
from pt.relay.messages import (
    HOP,
    MAX_MESSAGE,
    RAW_HOP,
    RAW_STOP,
    STOP,
    HopMessage,
    HopType,
    Limit,
    Peer,
    Status,
)
from pt.relay.raw import PREFACE, AuthAnswer, preface
from pt.relay.registry import STRANGERS, Quotas
from pt.relay.voucher import verify
from pt.relayd import events, guests, hop
from pt.wire import uvarint
from tests.sim.loop import run
from tests.unit.relayd.lab import SECRET, Guest, lab


def test_a_stranger_gets_a_reservation_with_a_voucher_and_limits(tmp_path: Path) -> None:
    async def main() -> None:
        async with lab(tmp_path) as made, made.guest() as guest:
            said = await guest.reserve()
            assert said.status == Status.OK
            assert said.limit == Limit(120, 131072)
            assert said.reservation is not None
            assert said.reservation.addresses == made.relay.addresses
            assert 3500 < said.reservation.expire - time.time() <= 3600
            assert said.reservation.voucher is not None
            verify(
                said.reservation.voucher,
                relay=made.relay.peer_id,
                peer=guest.peer_id,
                now=time.time(),
            )
            (reserved,) = made.of(events.Reserved)
            assert (reserved.peer_id, reserved.grade) == (guest.peer_id, "stranger")
            assert (await guest.reserve()).status == Status.OK  # a refresh
            assert len(made.of(events.Reserved)) == 1

    run(main())


def test_a_user_has_no_limit(tmp_path: Path) -> None:
    async def main() -> None:
        async with lab(tmp_path, secret=SECRET) as made, made.guest() as guest:
            assert await guest.prove() is AuthAnswer.USER
            said = await guest.reserve()
            assert said.status == Status.OK
            assert said.limit is None

    run(main())


MALFORMED = {
    "garbage": b"\x05\xff\xff\xff\xff\xff",
    "too long": uvarint.encode(MAX_MESSAGE + 1) + b"x" * 64,
}


@pytest.mark.parametrize("what", MALFORMED)
def test_malformed_requests_are_answered_as_such(tmp_path: Path, what: str) -> None:
    async def main() -> None:
        async with lab(tmp_path) as made, made.guest() as guest:
            _, said = await guest.ask(MALFORMED[what])
            assert said.status in (Status.MALFORMED_MESSAGE, Status.UNEXPECTED_MESSAGE)
            assert (await guest.reserve()).status == Status.OK  # and the connection goes on

    run(main())


@pytest.mark.parametrize(
    ("message", "protocol", "status"),
    [
        (HopMessage(HopType.STATUS, status=Status.OK), HOP, Status.UNEXPECTED_MESSAGE),
        (HopMessage(77), HOP, Status.UNEXPECTED_MESSAGE),  # type: ignore[arg-type]
        (HopMessage(HopType.CONNECT), HOP, Status.MALFORMED_MESSAGE),
        (HopMessage(HopType.RESERVE), RAW_HOP, Status.UNEXPECTED_MESSAGE),
    ],
)
def test_requests_that_make_no_sense(
    tmp_path: Path, message: HopMessage, protocol: str, status: Status
) -> None:
    async def main() -> None:
        async with lab(tmp_path) as made, made.guest() as guest:
            _, said = await guest.ask(message.encode(), protocol)
            assert said.status == status

    run(main())


@pytest.mark.parametrize("protocol", [HOP, RAW_HOP])
def test_nobody_is_reached_without_a_reservation(tmp_path: Path, protocol: str) -> None:
    async def main() -> None:
        async with lab(tmp_path) as made, made.guest() as source, made.guest() as target:
            _, said = await source.connect(target.peer_id, protocol)
            assert said.status == Status.NO_RESERVATION
            _, said = await source.connect(source.peer_id, protocol)
            assert said.status == Status.PERMISSION_DENIED  # to oneself
            assert made.relay.snapshot().grades[1].circuits == 0

    run(main())


@pytest.mark.parametrize("kind", [HopType.RESERVE, HopType.CONNECT])
def test_nothing_is_asked_for_over_a_relayed_connection(tmp_path: Path, kind: HopType) -> None:
    async def main() -> None:
        async with lab(tmp_path) as made, made.guest() as guest:
            (theirs,) = made.relay.node.connections_of(guest.peer_id)
            theirs.route = Route(theirs.remote_addr, relay=guest.peer_id, path="relay/circuit")
            peer = Peer(guest.peer_id) if kind is HopType.CONNECT else None
            _, said = await guest.ask(HopMessage(kind, peer=peer).encode())
            assert said.status == Status.PERMISSION_DENIED

    run(main())


def test_a_request_that_never_comes_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Slow-loris: byte by byte, or nothing at all; the connection goes on, the stream does not."""
    monkeypatch.setattr(hop, "HOP_TIMEOUT", 0.3)

    async def main() -> None:
        async with lab(tmp_path) as made, made.guest() as guest:
            stream = await guest.connection.open_stream((HOP,))
            await stream.write(b"\x20")
            began = asyncio.get_running_loop().time()
            with pytest.raises(ResetError):
                async with asyncio.timeout(5):
                    while True:
                        await stream.write(b"\x08")
                        await asyncio.sleep(0.05)
            assert asyncio.get_running_loop().time() - began < 2
            assert (await guest.reserve()).status == Status.OK

    run(main())


def test_one_connection_has_so_many_requests_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guests, "HOP_STREAMS", 4)

    async def main() -> None:
        async with lab(tmp_path) as made, made.guest() as guest:
            held = [await guest.connection.open_stream((HOP,)) for _ in range(4)]
            one_more = await guest.connection.open_stream((HOP,))
            with pytest.raises(ResetError):
                await one_more.read(10)
            await held[0].reset()
            await made.until(lambda: made.of(events.RelayRefused))
            async with asyncio.timeout(5):
                while True:  # the freed place is there a moment later
                    with contextlib.suppress(ResetError, PtError):
                        if (await guest.reserve()).status == Status.OK:
                            break
            assert "too many requests" in made.of(events.RelayRefused)[0].reason

    run(main())


def test_a_client_that_opens_circuits_without_end_meets_its_quota(tmp_path: Path) -> None:
    async def main() -> None:
        async with (
            lab(tmp_path, strangers=Quotas(circuits_per_peer=3)) as made,
            made.guest() as source,
            made.guest() as target,
        ):
            assert (await target.reserve()).status == Status.OK
            target.node.handle(STOP, hold)
            taken = [await source.connect(target.peer_id) for _ in range(3)]
            assert [said.status for _, said in taken] == [Status.OK] * 3
            _, said = await source.connect(target.peer_id)
            assert said.status == Status.RESOURCE_LIMIT_EXCEEDED
            assert made.relay.snapshot().open_circuits == {"libp2p": 3}
            await taken[0][0].reset()
            await made.until(lambda: made.of(events.CircuitClosed))
            _, said = await source.connect(target.peer_id)
            assert said.status == Status.OK

    run(main())


def test_a_flood_of_requests_is_refused_and_told_in_sum(tmp_path: Path) -> None:
    async def main() -> None:
        async with lab(tmp_path) as made, made.guest() as source:
            nobody = PeerId.parse("12D3KooWBtg3aaRMjxwedh83aGiUkwSxDwUZkzuJcfaqUmo7R3pq")
            seen = set()
            for _ in range(80):  # 60 a minute are answered on their merits
                seen.add((await source.connect(nobody))[1].status)
            assert seen == {Status.NO_RESERVATION, Status.RESOURCE_LIMIT_EXCEEDED}
            await made.until(lambda: any(each.count > 1 for each in made.of(events.RelayRefused)))
            told = made.of(events.RelayRefused)
            assert len(told) < 20
            assert sum(each.count for each in told) == 80
            assert sum(made.relay.snapshot().totals.refusals.values()) == 80

    run(main())


async def hold(stream, connection) -> None:  # type: ignore[no-untyped-def]
    """A target that takes a circuit and says nothing."""
    await relay_aio.read_stop(stream)
    await relay_aio.answer_stop(stream, Status.OK)
    await asyncio.Event().wait()


@pytest.mark.parametrize("how", ["refuses", "does not answer", "is gone", "speaks another"])
def test_a_target_that_does_not_take_the_circuit(
    tmp_path: Path, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hop, "STOP_TIMEOUT", 0.3)

    async def refuse(stream, connection) -> None:  # type: ignore[no-untyped-def]
        await relay_aio.read_stop(stream)
        await relay_aio.answer_stop(stream, Status.PERMISSION_DENIED)

    async def silent(stream, connection) -> None:  # type: ignore[no-untyped-def]
        await asyncio.Event().wait()

    async def main() -> None:
        async with lab(tmp_path) as made, made.guest() as source, made.guest() as target:
            assert (await target.reserve()).status == Status.OK
            wanted = Status.CONNECTION_FAILED
            if how == "refuses":
                target.node.handle(STOP, refuse)
            elif how == "does not answer":
                target.node.handle(STOP, silent)
            elif how == "is gone":
                target.connection.close()
                await made.until(lambda: made.of(events.ReservationEnded))
                wanted = Status.NO_RESERVATION
            else:
                del target.node._handlers[STOP]
            _, said = await source.connect(target.peer_id)
            assert said.status == wanted
            assert made.relay.snapshot().grades[1].circuits == 0  # and none is counted for ever

    run(main())


def test_a_reservation_ends_with_its_connection_and_not_with_another(tmp_path: Path) -> None:
    async def main() -> None:
        async with lab(tmp_path) as made, made.guest() as target, made.guest() as source:
            target.node.handle(STOP, hold)
            assert (await target.reserve()).status == Status.OK
            second = await target.node.connect(made.relay.addresses[0])
            target.connection.close()
            async with asyncio.timeout(5):
                while (
                    target.connection in target.node.connections
                    or len(made.relay.node.connections_of(target.peer_id)) > 1
                ):
                    await asyncio.sleep(0.01)
            _, said = await source.connect(target.peer_id)
            assert said.status == Status.OK  # reached over the connection that is left
            assert not made.of(events.ReservationEnded)
            second.close()
            await made.until(lambda: made.of(events.ReservationEnded))

    run(main())


# --- raw circuits ------------------------------------------------------------------------------


def test_a_target_without_raw_circuits_is_said_to_have_none(tmp_path: Path) -> None:
    async def main() -> None:
        async with lab(tmp_path) as made, made.guest() as source, made.guest() as target:
            assert (await target.reserve()).status == Status.OK
            del target.node._handlers[RAW_STOP]
            _, said = await source.connect(target.peer_id, RAW_HOP)
            assert said.status == Status.RAW_UNSUPPORTED
            assert made.relay.snapshot().grades[1].circuits == 0

    run(main())


async def leg(guest: Guest, first: bytes) -> socket.socket:
    """A TCP connection to the relay that begins so."""
    sock = socket.socket()
    sock.setblocking(False)
    loop = asyncio.get_running_loop()
    port = guest.connection.remote_addr.tcp_port
    await loop.sock_connect(sock, ("127.0.0.1", port))
    await loop.sock_sendall(sock, first)
    return sock


async def was_reset(sock: socket.socket) -> bool:
    try:
        async with asyncio.timeout(5):
            return await asyncio.get_running_loop().sock_recv(sock, 10) == b"reset?"
    except ConnectionResetError:
        return True
    finally:
        sock.close()


@pytest.mark.parametrize(
    "first",
    [
        preface(b"t" * 32),  # a token that was never given
        PREFACE + b"short",
        b"\x00something else",
    ],
)
def test_a_leg_that_names_no_circuit_is_reset(
    tmp_path: Path, first: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hop, "PREFACE_TIMEOUT", 0.3)

    async def main() -> None:
        async with lab(tmp_path) as made, made.guest() as guest:
            assert await was_reset(await leg(guest, first))

    run(main())


def test_a_token_is_good_once_and_for_a_while(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pt.relayd.tokens.LIFE", 0.5)

    async def main() -> None:
        async def take(stream, connection) -> None:  # type: ignore[no-untyped-def]
            await relay_aio.read_stop(stream)
            await relay_aio.answer_stop(stream, Status.OK)  # and never comes

        async with lab(tmp_path) as made, made.guest() as source, made.guest() as target:
            target.node.handle(RAW_STOP, take)
            assert (await target.reserve()).status == Status.OK
            _, said = await source.connect(target.peer_id, RAW_HOP)
            assert said.status == Status.OK
            assert said.token is not None
            assert len(said.token) == raw.TOKEN_LEN
            first = await leg(source, preface(said.token))
            assert await was_reset(await leg(source, preface(said.token)))
            assert made.relay.snapshot().grades[1].circuits == 1
            await made.until(
                lambda: any("did not come" in e.reason for e in made.of(events.RelayRefused))
            )
            assert await was_reset(first)
            assert made.relay.snapshot().grades[1].circuits == 0

    run(main())


def test_a_draining_relay_takes_nobody_and_says_so(tmp_path: Path) -> None:
    async def main() -> None:
        async with lab(tmp_path) as made, made.guest() as source, made.guest() as target:
            assert (await target.reserve()).status == Status.OK
            assert await target.prove(None) is AuthAnswer.STRANGER
            await made.relay.drain(0.1)
            assert (await source.reserve()).status == Status.RESERVATION_REFUSED
            _, said = await source.connect(target.peer_id)
            assert said.status == Status.RESOURCE_LIMIT_EXCEEDED
            (draining,) = made.of(events.RelayDraining)
            assert (draining.circuits, draining.reservations) == (0, 1)
            assert made.relay.snapshot().draining

    run(main())


def test_the_defaults_are_those_of_public_relays() -> None:
    assert STRANGERS.limit == Limit(120, 131072)
    assert (STRANGERS.reservations, STRANGERS.per_host, STRANGERS.circuits_per_peer) == (128, 8, 16)
