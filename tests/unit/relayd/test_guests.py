"""Who is a user: by the secret, by the list, and after a reload."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from pt.errors import PtError
from pt.relay import aio as relay_aio
from pt.relay import raw
from pt.relay.messages import AUTH, Status
from pt.relay.raw import AuthAnswer, Notice
from pt.relayd import events, guests
from pt.relayd.config import RelayConfig
from tests.sim.loop import run
from tests.unit.relayd.lab import LOOPBACK, SECRET, Guest, lab

OTHER = "another-secret-of-tests"


@pytest.mark.parametrize(
    ("options", "secret", "answer"),
    [
        ({"secret": SECRET}, SECRET, AuthAnswer.USER),
        ({"secret": SECRET}, f"  {SECRET}\n", AuthAnswer.USER),
        ({"secret": SECRET}, OTHER, AuthAnswer.STRANGER),
        ({"secret": SECRET}, None, AuthAnswer.STRANGER),
        ({}, SECRET, AuthAnswer.STRANGER),
        ({"secret": SECRET, "private": True}, OTHER, AuthAnswer.NOTHING),
        ({"secret": SECRET, "private": True}, SECRET, AuthAnswer.USER),
    ],
)
def test_what_a_proof_makes_of_a_guest(
    tmp_path: Path, options: dict[str, object], secret: str | None, answer: AuthAnswer
) -> None:
    async def main() -> None:
        async with lab(tmp_path, **options) as made, made.guest() as guest:
            assert await guest.prove(secret) is answer
            wrong = [each.reason for each in made.of(events.RelayRefused)]
            assert wrong == (["a wrong secret"] if secret and answer is not AuthAnswer.USER else [])

    run(main())


def test_strangers_get_nothing_in_private_and_reach_users(tmp_path: Path) -> None:
    async def main() -> None:
        async with (
            lab(tmp_path, secret=SECRET, private=True) as made,
            made.guest() as user,
            made.guest() as stranger,
        ):
            assert (await stranger.reserve()).status == Status.PERMISSION_DENIED
            await user.prove()
            assert (await user.reserve()).status == Status.OK
            connection = await stranger.node.connect(
                made.relay.addresses[0].through_circuit(), expected=user.peer_id
            )
            assert await connection.ping() > 0
            assert not connection.limited

    run(main())


def test_guessing_the_secret_is_slow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async with lab(tmp_path, secret=SECRET) as made:
            for number in range(guests.WRONG_PROOFS + 2):
                async with made.guest() as guest:
                    await guest.prove(f"{OTHER}-{number}")
            async with made.guest() as guest:  # not even the right one is looked at for now
                assert await guest.prove(SECRET) is AuthAnswer.STRANGER
            told = "too many wrong secrets"
            await made.until(lambda: any(told in e.reason for e in made.of(events.RelayRefused)))

    run(main())


def test_a_proof_is_bound_to_its_connection(tmp_path: Path) -> None:
    """What one guest said proves nothing for another."""

    async def main() -> None:
        async with lab(tmp_path, secret=SECRET) as made, made.guest() as one, made.guest() as two:
            proof = raw.proof(
                raw.secret_key(SECRET),
                client=one.peer_id,
                relay=made.relay.peer_id,
                binding=one.connection.handshake_hash,
            )
            stream = await two.connection.open_stream((AUTH,))
            await stream.write(bytes((raw.AUTH_VERSION,)) + proof)
            assert (await stream.read_exactly(1))[0] == AuthAnswer.STRANGER

    run(main())


@pytest.mark.parametrize("said", [b"\x07" + bytes(32), b"\x01short"])
def test_a_proof_of_another_form_ends_the_stream(
    tmp_path: Path, said: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guests, "PROOF_TIMEOUT", 0.3)

    async def main() -> None:
        async with lab(tmp_path, secret=SECRET) as made, made.guest() as guest:
            stream = await guest.connection.open_stream((AUTH,))
            await stream.write(said)
            with pytest.raises(PtError):
                async with asyncio.timeout(5):
                    await stream.read_exactly(1)

    run(main())


def test_a_reload_changes_who_is_a_user_and_what_they_get(tmp_path: Path) -> None:
    async def main() -> None:
        async with lab(tmp_path, secret=SECRET) as made, made.guest() as guest:
            config = RelayConfig(
                listen=made.config.listen, secret=OTHER, allow=frozenset({guest.peer_id}), rate=1e6
            )
            made.relay.reload(config)
            (reloaded,) = made.of(events.RelayReloaded)
            assert reloaded.ignored == ()
            assert await guest.prove(None) is AuthAnswer.USER  # by the list
            async with Guest(made.relay) as another:
                assert await another.prove(SECRET) is AuthAnswer.STRANGER
                assert await another.prove(OTHER) is AuthAnswer.USER
            made.relay.reload(RelayConfig(listen=(LOOPBACK,), http=("127.0.0.1", 1), secret=OTHER))
            assert "http" in made.of(events.RelayReloaded)[-1].ignored

    run(main())


def test_a_notice_reaches_whoever_listens(tmp_path: Path) -> None:
    async def main() -> None:
        async with lab(tmp_path, secret=SECRET) as made, made.guest() as guest:
            stream = await guest.connection.open_stream((AUTH,))
            await relay_aio.authenticate(
                stream,
                None,
                client=guest.peer_id,
                relay=made.relay.peer_id,
                binding=guest.connection.handshake_hash,
            )
            await made.relay.drain(0.05)
            assert (await stream.read_exactly(1))[0] == Notice.DRAINING

    run(main())
