"""Connections that both ends open, on loopback; NATs are in tests/e2e/test_punch.py."""

from __future__ import annotations

import asyncio
import socket

import pytest

from pt.aio.simultaneous import open_from_both_sides
from pt.errors import ClosedError, LocalPortError

HERE = "127.0.0.1"


def free_ports(count: int) -> list[int]:
    socks = [socket.socket() for _ in range(count)]
    for sock in socks:
        sock.bind((HERE, 0))
    ports = [sock.getsockname()[1] for sock in socks]
    for sock in socks:
        sock.close()
    return ports


async def prove(sock: socket.socket) -> bool:
    loop = asyncio.get_running_loop()
    await loop.sock_sendall(sock, b"friend")
    return await loop.sock_recv(sock, 6) == b"friend"


def opening(port: int, remotes: list[int], prover=prove, seconds: float = 5.0):
    return open_from_both_sides(
        port, [(HERE, each) for each in remotes], prover, seconds=seconds, rtt=0.01, host=HERE
    )


def test_both_ends_get_a_connection_that_carries_bytes() -> None:
    async def main() -> None:
        one, other = free_ports(2)
        chosen: list[socket.socket] = []

        async def controlling(sock: socket.socket) -> bool:
            if not await prove(sock) or chosen:
                return False
            chosen.append(sock)
            await asyncio.get_running_loop().sock_sendall(sock, b"!")
            return True

        async def controlled(sock: socket.socket) -> bool:
            return await prove(sock) and (
                await asyncio.get_running_loop().sock_recv(sock, 1) == b"!"
            )

        left, right = await asyncio.gather(
            opening(one, [other], controlling), opening(other, [one], controlled)
        )
        assert left is not None
        assert right is not None
        assert left.getpeername() == right.getsockname()
        with left, right:
            left.sendall(b"x")
            assert await asyncio.get_running_loop().sock_recv(right, 1) == b"x"

    asyncio.run(main())


def test_who_cannot_prove_itself_is_reset() -> None:
    async def main() -> None:
        port, nobody = free_ports(2)
        task = asyncio.ensure_future(opening(port, [nobody], seconds=0.5))
        await asyncio.sleep(0)
        loop = asyncio.get_running_loop()
        with socket.socket() as stranger:
            stranger.setblocking(False)
            await loop.sock_connect(stranger, (HERE, port))
            await loop.sock_sendall(stranger, b"foeman")
            with pytest.raises(ConnectionResetError):
                while await loop.sock_recv(stranger, 100):
                    pass
        assert await task is None

    asyncio.run(main())


def test_a_prover_that_fails_harms_nobody() -> None:
    async def refuse(_: socket.socket) -> bool:
        raise ClosedError("no")

    async def main() -> None:
        one, other = free_ports(2)
        results = await asyncio.gather(
            opening(one, [other], refuse, 0.3), opening(other, [one], refuse, 0.3)
        )
        assert results == [None, None]

    asyncio.run(main())


def test_a_port_that_is_taken_is_told() -> None:
    async def main() -> None:
        server = socket.create_server((HERE, 0))
        with server, pytest.raises(LocalPortError, match="cannot be used for hole punching"):
            await opening(server.getsockname()[1], [1])

    asyncio.run(main())


def test_cancelling_leaves_the_port_free() -> None:
    async def main() -> None:
        port, nobody = free_ports(2)
        task = asyncio.ensure_future(opening(port, [nobody]))
        await asyncio.sleep(0.05)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        socket.create_server((HERE, port)).close()

    asyncio.run(main())
