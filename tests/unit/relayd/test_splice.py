from __future__ import annotations

import asyncio
import errno
import os
import socket

import pytest

from pt.relay.messages import Limit
from pt.relayd import splice
from pt.relayd.splice import COPY_LEN
from pt.relayd.traffic import DATA_UP, TIME_UP
from tests.sim.loop import run
from tests.unit.relayd.rig import (
    Ends,
    noise,
    receive,
    receive_exactly,
    reset,
    send,
    splicer,
    until,
)

WAYS = pytest.mark.parametrize(
    "how",
    [
        {"pipes": None, "epoll": True},
        {"pipes": 0, "epoll": True},
        {"pipes": None, "epoll": False},
        {"pipes": 0, "epoll": False},
    ],
    ids=["splice", "copy", "splice-loop", "copy-loop"],
)
MIB = 1024 * 1024


@WAYS
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("size", [0, 4096])
def test_random_bytes_arrive_both_ways_exactly(how, seed, size):
    there, back = noise(seed, 1_500_000 + seed), noise(seed + 100, 700_001)

    async def main():
        async with splicer(**how) as made:
            ends = Ends(made, size=size)
            _, _, got_there, got_back = await asyncio.gather(
                send(ends.source, seed, there),
                send(ends.target, seed + 1, back),
                receive(ends.target, seed + 2, slow=True),
                receive(ends.source, seed + 3, slow=True),
            )
            assert got_there == there
            assert got_back == back
            await ends.ended.wait()
            assert ends.reasons == [""]
            assert ends.circuit.bytes == (len(there), len(back))
            assert made.spliced + made.copied == len(there) + len(back)
            assert bool(made.copied) == (how["pipes"] == 0)

    run(main())


@WAYS
def test_an_end_of_one_direction_leaves_the_other_open(how):
    async def main():
        async with splicer(**how) as made:
            ends = Ends(made)
            await send(ends.source, 1, b"question")
            assert await receive(ends.target) == b"question"
            await asyncio.sleep(5)
            assert not ends.circuit.closed
            await send(ends.target, 2, b"answer")
            assert await receive(ends.source) == b"answer"
            await ends.ended.wait()
            assert ends.reasons == [""]

    run(main())


@WAYS
def test_an_end_arrives_behind_what_a_slow_reader_left_waiting(how):
    data = noise(1, 2 * MIB)

    async def main():
        async with splicer(**how) as made:
            ends = Ends(made, size=4096)
            sending = asyncio.create_task(send(ends.source, 1, data))
            await asyncio.sleep(1)
            assert not sending.done()
            assert await receive(ends.target, 2, slow=True) == data
            await sending
            ends.target.close()
            await ends.ended.wait()

    run(main())


@WAYS
@pytest.mark.parametrize("who", ["source", "target"])
def test_a_reset_becomes_a_reset(how, who):
    async def main():
        async with splicer(**how) as made:
            ends = Ends(made)
            await send(ends.source, 1, b"x", end=False)
            assert await receive_exactly(ends.target, 1) == b"x"
            one, other = (
                (ends.source, ends.target) if who == "source" else (ends.target, ends.source)
            )
            reset(one)
            with pytest.raises(ConnectionResetError):
                await asyncio.get_running_loop().sock_recv(other, 1)
            assert ends.reasons == ["connection reset by peer"]

    run(main())


def test_a_reset_of_somebody_who_is_not_read_is_noticed():
    async def main():
        async with splicer() as made:
            ends = Ends(made, size=4096)
            filling = asyncio.create_task(send(ends.source, 1, bytes(64 * MIB)))
            await asyncio.sleep(1)
            assert not ends.circuit.left.interest  # the target reads nothing, so nor do we
            filling.cancel()
            reset(ends.source)
            await ends.ended.wait()
            await asyncio.sleep(0.1)
            with pytest.raises(ConnectionResetError):
                while await asyncio.get_running_loop().sock_recv(ends.target, MIB):
                    pass

    run(main())


@WAYS
def test_a_reader_that_goes_away_resets_the_writer(how):
    async def main():
        async with splicer(**how) as made:
            ends = Ends(made, size=4096)
            sending = asyncio.create_task(send(ends.source, 1, bytes(64 * MIB)))
            await asyncio.sleep(1)
            reset(ends.target)
            with pytest.raises((ConnectionResetError, BrokenPipeError)):
                await sending
            await ends.ended.wait()
            assert ends.reasons != [""]

    run(main())


def test_an_idle_circuit_holds_nothing_and_takes_no_turns(monkeypatch):
    async def main():
        async with splicer() as made:
            ends = Ends(made)
            await send(ends.source, 1, b"hello", end=False)
            assert await receive_exactly(ends.target, 5) == b"hello"
            assert made.pool.lent == 0
            assert ends.circuit.left.pipe is None
            await send(ends.source, 1, b"")
            assert await receive(ends.target) == b""
            turns = []
            monkeypatch.setattr(splice.Leg, "ready", lambda leg, events: turns.append(events))
            await asyncio.sleep(0.2)
            assert turns == []
            monkeypatch.undo()

    run(main())


def test_a_connection_that_has_ended_both_ways_and_is_not_read_does_not_spin(monkeypatch):
    data = noise(1, 120_000)

    async def main():
        async with splicer(pipes=0) as made:
            ends = Ends(made)
            for sock in (ends.circuit.right.sock, ends.target):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            await send(ends.target, 1, b"")  # nothing comes back
            assert await receive(ends.source) == b""
            sending = asyncio.create_task(send(ends.source, 1, data))
            turns = []
            ready = splice.Leg.ready
            monkeypatch.setattr(
                splice.Leg, "ready", lambda leg, events: (turns.append(events), ready(leg, events))
            )
            await sending
            await until(lambda: ends.circuit.left.interest == -1)
            assert ends.circuit.left.rest
            turns.clear()
            await until(lambda: made.poller._epoll.poll(0, 1) == [])
            for _ in range(200):
                await asyncio.sleep(0)
            assert len(turns) <= 3
            assert await receive(ends.target, 5) == data
            await ends.ended.wait()
            assert ends.reasons == [""]

    run(main())


def test_slow_readers_hold_a_pipe_each_and_the_others_are_copied():
    data = noise(3, 3 * MIB)

    async def main():
        async with splicer(pipes=2) as made:
            slow = [Ends(made, size=4096) for _ in range(4)]
            sending = [asyncio.create_task(send(ends.source, 1, data)) for ends in slow]
            await asyncio.sleep(1)
            assert made.pool.lent == 2
            kept = [ends.circuit.left.rest for ends in slow if ends.circuit.left.rest is not None]
            assert len(kept) == 2
            assert all(len(rest) <= COPY_LEN for rest in kept)
            quick = Ends(made)
            await send(quick.source, 1, data)
            assert await receive(quick.target) == data
            for ends in slow:
                assert await receive(ends.target) == data
            await asyncio.gather(*sending)
            assert made.pool.lent == 0
            assert made.pool.refused
            assert made.copied
            assert made.spliced

    run(main())


@pytest.mark.parametrize("code", [errno.EINVAL, errno.ENOSYS])
def test_a_kernel_that_cannot_splice_these_sockets_copies(monkeypatch, code):
    def unable(*args: object, **named: object) -> int:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "splice", unable)
    data = noise(4, MIB)

    async def main():
        async with splicer() as made:
            ends = Ends(made)
            await asyncio.gather(send(ends.source, 1, data), receive(ends.target))
            assert made.copied == len(data)
            assert made.pool.limit == 0

    run(main())


@WAYS
@pytest.mark.parametrize("limit", [1, 1000, 131072])
def test_beyond_its_bytes_a_direction_ends_and_the_other_goes_on(how, limit):
    data = noise(5, 400_000)

    async def main():
        async with splicer(**how) as made:
            ends = Ends(made, limit=Limit(0, limit))
            sending = asyncio.create_task(send(ends.source, 1, data, end=False))
            assert await receive(ends.target) == data[:limit]
            assert not ends.circuit.closed
            half = limit // 2
            await send(ends.target, 2, data[:half], end=False)
            assert await receive_exactly(ends.source, half) == data[:half]
            await send(ends.target, 2, data[half:limit], end=False)
            assert await receive(ends.source) == data[half:limit]
            await ends.ended.wait()
            assert ends.reasons == [DATA_UP]
            assert ends.circuit.bytes == (limit, limit)
            sending.cancel()

    run(main())


def test_what_is_sent_beyond_the_limit_is_not_read():
    async def main():
        async with splicer() as made:
            ends = Ends(made, limit=Limit(0, 1000), size=4096)
            sending = asyncio.create_task(send(ends.source, 1, bytes(64 * MIB)))
            assert len(await receive(ends.target)) == 1000
            await asyncio.sleep(30)
            assert not sending.done()
            ends.target.shutdown(socket.SHUT_WR)
            with pytest.raises((ConnectionResetError, BrokenPipeError)):
                await sending
            assert ends.reasons == [DATA_UP]

    run(main())


@WAYS
def test_when_its_time_is_up_a_circuit_is_reset(how):
    async def main():
        async with splicer(**how) as made:
            loop = asyncio.get_running_loop()
            began = loop.time()
            ends = Ends(made, limit=Limit(120, 0))
            for _ in range(11):
                await asyncio.sleep(10)
                await send(ends.source, 1, b"still there", end=False)
                assert await receive_exactly(ends.target, 11) == b"still there"
            with pytest.raises(ConnectionResetError):
                await loop.sock_recv(ends.target, 1)
            with pytest.raises(ConnectionResetError):
                await loop.sock_recv(ends.source, 1)
            assert 120 <= loop.time() - began <= 121
            assert ends.reasons == [TIME_UP]

    run(main())


@WAYS
def test_bandwidth_is_what_was_configured(how):
    data = noise(6, 2_000_000)

    async def main():
        async with splicer(**how, rate=100_000) as made:
            loop = asyncio.get_running_loop()
            ends = Ends(made)
            began = loop.time()
            _, got = await asyncio.gather(send(ends.source, 1, data), receive(ends.target))
            assert got == data
            assert 18 < loop.time() - began < 22

    run(main())


def test_owners_share_what_there_is_and_both_directions_count():
    async def main():
        async with splicer(rate=200_000) as made:
            circuits = [Ends(made, owner="a") for _ in range(3)] + [Ends(made, owner="b")]
            tasks = []
            for ends in circuits:
                tasks += [
                    asyncio.create_task(send(sock, 1, bytes(4 * MIB)))
                    for sock in (ends.source, ends.target)
                ]
                tasks += [asyncio.create_task(receive(sock)) for sock in (ends.source, ends.target)]
            await asyncio.sleep(20)
            moved = [ends.circuit.bytes for ends in circuits]
            total = sum(map(sum, moved))
            assert 0.9 * 20 * 200_000 < total < 1.1 * 20 * 200_000 + 200_000
            assert 0.4 < sum(moved[3]) / total < 0.6
            for there, back in moved:
                assert 0.6 < there / back < 1.6
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
            for ends in circuits:
                ends.circuit.close("enough")

    run(main())


def test_rates_that_are_lifted_let_everybody_go_on_at_once():
    data = noise(7, 3_000_000)

    async def main():
        async with splicer(rate=10_000) as made:
            loop = asyncio.get_running_loop()
            ends = Ends(made)
            got = asyncio.create_task(receive(ends.target))
            sending = asyncio.create_task(send(ends.source, 1, data))
            await asyncio.sleep(3)
            began = loop.time()
            made.traffic.set_rates(0, 0)
            assert await got == data
            await sending
            assert loop.time() - began < 2

    run(main())


def test_whoever_waits_for_bandwidth_is_told_of_a_reset():
    async def main():
        async with splicer(rate=1000) as made:
            ends = Ends(made)
            await send(ends.source, 1, bytes(MIB), end=False)
            await until(lambda: ends.circuit.left.waiting)
            reset(ends.source)
            await ends.ended.wait()
            await asyncio.sleep(10)  # and nobody is woken

    run(main())


def test_closing_resets_both_ends_once():
    async def main():
        async with splicer() as made:
            loop = asyncio.get_running_loop()
            ends = Ends(made, limit=Limit(5, 0))
            ends.circuit.close("the operator said so")
            ends.circuit.close("again")
            for sock in (ends.source, ends.target):
                with pytest.raises(ConnectionResetError):
                    await loop.sock_recv(sock, 1)
            await asyncio.sleep(10)
            assert ends.reasons == ["the operator said so"]

    run(main())


def test_one_circuit_among_many_does_not_have_the_loop_to_itself():
    async def main():
        async with splicer() as made:
            greedy, modest = Ends(made), Ends(made)
            stop = asyncio.Event()

            async def flood() -> None:
                while not stop.is_set():
                    await asyncio.get_running_loop().sock_sendall(greedy.source, bytes(MIB))

            flooding = asyncio.create_task(flood())
            draining = asyncio.create_task(receive(greedy.target))
            for _ in range(50):
                before = sum(greedy.circuit.bytes)
                modest.source.send(b"ping")
                assert await receive_exactly(modest.target, 4) == b"ping"
                assert sum(greedy.circuit.bytes) - before < 64 * MIB
            stop.set()
            await flooding
            draining.cancel()
            for ends in (greedy, modest):
                ends.circuit.close("enough")

    run(main())


def test_sockets_that_are_not_tcp_do_as_well():
    async def main():
        async with splicer() as made:
            source, left = socket.socketpair()
            target, right = socket.socketpair()
            for sock in (source, left, target, right):
                sock.setblocking(False)
            done = []
            circuit = made.join(
                left,
                right,
                share=made.traffic.shaper.add("owner"),
                on_done=lambda _, reason: done.append(reason),
            )
            data = noise(8, MIB)
            _, got = await asyncio.gather(send(source, 1, data), receive(target))
            assert got == data
            target.close()
            await until(lambda: circuit.closed)
            assert done == [""]
            source.close()

    run(main())
