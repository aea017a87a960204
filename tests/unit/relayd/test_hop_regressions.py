"""What the hop service once did wrong, or could have."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from pt.aio.muxed import MuxedStream
from pt.errors import ClosedError, ResetError
from pt.node.connection import Connection
from pt.node.node import Node
from pt.relay import aio as relay_aio
from pt.relay.messages import AUTH, STOP, HopMessage, HopType, Status
from pt.relay.raw import AuthAnswer
from pt.relayd import events, hop, server
from pt.relayd.server import RelayServer
from tests.sim.loop import run
from tests.unit.relayd.lab import SECRET, Guest, lab
from tests.unit.relayd.rig import until


def theirs(relay: RelayServer, guest: Guest) -> Connection:
    (connection,) = relay.node.connections_of(guest.peer_id)
    return connection


def test_a_client_that_asks_and_proves_without_end_is_not_remembered_each_time(
    tmp_path: Path,
) -> None:
    async def main() -> None:
        async with lab(tmp_path, secret=SECRET) as made, made.guest() as guest:
            connection = theirs(made.relay, guest)
            callbacks = len(connection.on_close)
            for _ in range(20):
                assert await guest.prove() is AuthAnswer.USER
                assert (await guest.reserve()).status == Status.OK
            assert len(connection.on_close) == callbacks
            guests = made.relay._guests
            assert len(guests._watched) == len(guests._controls) == len(guests._users) == 1
            guest.connection.close()
            await made.until(lambda: made.of(events.ReservationEnded))
            assert not guests._watched
            assert not guests._controls
            assert not guests._users
            assert not guests._by_peer
            assert not guests.holders

    run(main())


def test_nothing_is_kept_of_a_connection_that_ended_before_it_was_served(tmp_path: Path) -> None:
    async def main() -> None:
        async with lab(tmp_path, secret=SECRET) as made, made.guest() as guest:
            connection = theirs(made.relay, guest)
            stream = await guest.connection.open_stream((AUTH,))
            await until(lambda: connection.link.session.streams)
            inner = MuxedStream(
                next(iter(connection.link.session.streams.values())), connection.link
            )
            guest.connection.close()
            while not connection.closed:
                await asyncio.sleep(0.001)
            with pytest.raises(ClosedError):
                await made.relay._hop._reserve(inner, connection)
            proof = HopMessage(HopType.RESERVE).encode()  # bytes that were there before the end
            inner.unread(b"\x01" + proof.ljust(32, b"x"))
            with pytest.raises(ClosedError):
                await made.relay._guests.authenticate(inner, connection)
            assert made.relay.snapshot().grades[1].reservations == 0
            assert not made.relay._hop.slots
            assert not made.relay._guests.holders
            assert not made.relay._guests._controls
            assert not made.relay._guests._watched
            assert stream.ended

    run(main())


def test_a_client_that_does_not_take_its_answer_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hop, "SERVE_TIMEOUT", 0.3)

    async def main() -> None:
        async with lab(tmp_path) as made, made.guest() as guest:
            link = theirs(made.relay, guest).link
            monkeypatch.setattr(type(link), "room", property(lambda one: one is not link))
            with pytest.raises(ResetError):
                await guest.reserve()
            assert not made.relay._guests.asking(theirs(made.relay, guest))

    run(main())


def test_requests_of_unknown_types_are_one_kind_of_refusal(tmp_path: Path) -> None:
    async def main() -> None:
        async with lab(tmp_path) as made, made.guest() as guest:
            for number in (3, 77, 4096, 2**40):
                _, said = await guest.ask(HopMessage(number).encode())
                assert said.status == Status.UNEXPECTED_MESSAGE
            assert dict(made.relay.snapshot().totals.refusals) == {
                "connect: an unexpected message": 4
            }

    run(main())


def test_a_circuit_whose_ends_both_ended_at_once_is_one_that_ended_in_order(
    tmp_path: Path,
) -> None:
    async def main() -> None:
        async def brief(stream: MuxedStream, connection: Connection) -> None:
            await relay_aio.read_stop(stream)
            await relay_aio.answer_stop(stream, Status.OK)
            await stream.close_write()
            assert await stream.read(1) == b""

        async with lab(tmp_path) as made, made.guest() as source, made.guest() as target:
            target.node.handle(STOP, brief)
            assert (await target.reserve()).status == Status.OK
            stream, said = await source.connect(target.peer_id)
            assert said.status == Status.OK
            await stream.close_write()
            assert await stream.read(1) == b""
            await made.until(lambda: made.of(events.CircuitClosed))
            (closed,) = made.of(events.CircuitClosed)
            assert (closed.reason, closed.sent, closed.received) == ("", 0, 0)
            assert made.relay.snapshot().grades[1].circuits == 0

    run(main())


def test_strangers_connections_that_are_for_nothing_are_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "IDLE_SWEEP", 0.01)
    sweep = server.RelayServer._sweep_idle
    swept = 0

    def count_sweep(relay: server.RelayServer) -> None:
        nonlocal swept
        sweep(relay)
        swept += 1

    monkeypatch.setattr(server.RelayServer, "_sweep_idle", count_sweep)

    async def hold(stream: MuxedStream, connection: Connection) -> None:
        await relay_aio.read_stop(stream)
        await relay_aio.answer_stop(stream, Status.OK)
        await asyncio.Event().wait()

    async def main() -> None:
        async with (
            lab(tmp_path, secret=SECRET) as made,
            made.guest() as idle,
            made.guest() as holder,
            made.guest() as source,
            made.guest() as user,
        ):
            assert await idle.prove(None) is AuthAnswer.STRANGER  # its control stream stays open
            assert await user.prove() is AuthAnswer.USER
            assert (await holder.reserve()).status == Status.OK
            holder.node.handle(STOP, hold)
            stream, said = await source.connect(holder.peer_id)
            assert said.status == Status.OK
            monkeypatch.setattr(server, "IDLE_FOR", 0.0)
            async with asyncio.timeout(10):
                while not idle.connection.closed:
                    await asyncio.sleep(0.01)
                more = swept + 10
                while swept < more:
                    await asyncio.sleep(0.01)
            assert not any(one.connection.closed for one in (holder, source, user))
            await stream.reset()
            async with asyncio.timeout(10):
                while not source.connection.closed:
                    await asyncio.sleep(0.01)
            assert not any(one.connection.closed for one in (holder, user))
            assert not made.relay._carrying

    run(main())


def test_many_holders_that_leave_at_once_are_let_go_one_by_one_in_little_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Looking through all connections for each would take the square of their number."""
    looked = []
    connections_of = Node.connections_of
    monkeypatch.setattr(
        Node,
        "connections_of",
        lambda node, peer: (looked.append(peer), connections_of(node, peer))[1],
    )

    async def main() -> None:
        async with lab(tmp_path, secret=SECRET) as made, made.guest() as guest:
            assert (await guest.reserve()).status == Status.OK
            looked.clear()
            guest.connection.close()
            await made.until(lambda: made.of(events.ReservationEnded))
            assert looked == []

    run(main())
