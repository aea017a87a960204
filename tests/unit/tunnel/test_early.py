"""ATTACH and RESUME in one flight: nothing lost, nothing believed before the proof."""

from __future__ import annotations

import asyncio

import pytest

from pt.errors import ClosedError, CryptoFailure
from pt.tunnel import authenticate, probation
from pt.tunnel.early import attach_early
from pt.tunnel.suspicion import Alarms
from tests.unit.tunnel.loopback import Loopback, loopback, until


async def stream(rig: Loopback):  # type: ignore[no-untyped-def]
    await rig.authenticate()
    client = rig.open()
    service = await rig.accept()
    await until(lambda: rig.answers)
    return client, service


def test_streams_go_on_in_both_directions() -> None:
    async def main() -> None:
        async with loopback() as rig:
            client, service = await stream(rig)
            loop = asyncio.get_running_loop()
            for number in range(3):
                fresh = await rig.dial()
                client.send(b"before")
                service.send(b"BEFORE")
                done = attach_early(rig.session, fresh)
                fresh.link.flush()
                client.send(b"after")
                service.send(b"AFTER")
                assert await exactly(loop, service, 11) == b"beforeafter", number
                assert await exactly(loop, client, 11) == b"BEFOREAFTER", number
                await done
                assert rig.session.proved
                assert rig.session.connection is fresh
            client.close()
            service.close()

    asyncio.run(main())


async def exactly(loop: asyncio.AbstractEventLoop, sock, count: int) -> bytes:  # type: ignore[no-untyped-def]
    data = b""
    while len(data) < count:
        data += await loop.sock_recv(sock, count - len(data))
    return data


def test_an_exposer_that_forgot_the_session_is_told_apart() -> None:
    async def main() -> None:
        async with loopback() as rig:
            await rig.authenticate()
            fresh = await rig.dial()
            rig.gate.sessions.pop(rig.session.id)
            done = attach_early(rig.session, fresh)
            fresh.link.flush()
            with pytest.raises(ClosedError, match="knows the session no more"):
                await done

    asyncio.run(main())


def test_nothing_is_believed_without_the_proof(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> bool:
        raise CryptoFailure("not the session's exposer")

    async def main() -> None:
        async with loopback() as rig:
            client, service = await stream(rig)
            service.send(b"what a stranger might say")
            monkeypatch.setattr(authenticate, "check_attach_answer", refuse)
            rig.session.connection.link.flush()  # type: ignore[union-attr]
            fresh = await rig.dial()
            await until(lambda: rig.session.pumps[1].received)
            received = rig.session.pumps[1].received
            done = attach_early(rig.session, fresh)
            service.send(b", and more of it")
            fresh.link.flush()
            with pytest.raises(CryptoFailure):
                await done
            await until(lambda: rig.session.connection is None)  # the answer to RESUME broke it
            assert rig.session.pumps[1].received == received
            client.close()
            service.close()

    asyncio.run(main())


def test_a_path_that_answers_twice_came_back() -> None:
    async def main() -> None:
        async with loopback() as rig:
            connection = await rig.authenticate()
            alarms = Alarms()
            now = asyncio.get_running_loop().time()
            assert await probation.came_back(connection, alarms, soon=False)
            assert alarms.caution(now) == 1
            assert await probation.came_back(connection, alarms, soon=True)
            assert alarms.caution(now) == 2
            rig.cut()
            assert not await probation.came_back(connection, alarms, soon=True)

    asyncio.run(main())
