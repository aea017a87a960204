"""Who gets in: names, identities, pins, allow lists, and what becomes of everybody else."""

from __future__ import annotations

import json

import pytest

from tests.e2e.harness import NAME, Rig, ask_echo, direct_address, local_port, take_waiting

pytestmark = [pytest.mark.netns, pytest.mark.timeout(120)]
STRANGER = "12D3KooWEyoppNCUx8Yx66oV9fJnriXwCcXwDDUA2kj6vnc6iDEp"
"""A well-formed peer id that belongs to nobody here."""
REFUSED, NO_PATH, CHANGED = 4, 5, 9


def peer_id(rig: Rig, home: str, *argv: str) -> str:
    """The identity under a state directory, made if there is none."""
    shown = rig.pt("key", "show", "--json", *argv, home=home)
    assert shown.exit_code() == 0
    return str(json.loads(shown.output)["peer_id"])


def test_a_wrong_name_never_connects(rig: Rig) -> None:
    listener = rig.listen(rig.a)
    exposer = rig.expose("--port", str(listener.getsockname()[1]))
    take_waiting(listener)
    binder = rig.bind(
        "--port", "0", "--once", "--timeout", "10", to=exposer, name=NAME + "x", ready=False
    )
    assert binder.exit_code() == REFUSED
    assert not binder.matching("connected")
    exposer.wait("rejected")
    assert take_waiting(listener) == 0
    assert "Traceback" not in binder.log + exposer.log


def test_a_wrong_name_is_not_found_on_the_lan(rig: Rig) -> None:
    exposer = rig.expose("--port", "9", lan=True)
    binder = rig.bind("--port", "0", "--timeout", "3", name=NAME + "x", ready=False)
    assert binder.exit_code() == 3
    assert not binder.matching("found")
    assert exposer.running()


def test_a_wrong_peer_id_never_connects(rig: Rig) -> None:
    listener = rig.listen(rig.a)
    exposer = rig.expose("--port", str(listener.getsockname()[1]))
    take_waiting(listener)
    address = direct_address(exposer).rpartition("/")[0] + "/" + STRANGER
    binder = rig.bind("--port", "0", "--once", "--timeout", "5", to=address, ready=False)
    assert binder.exit_code() in (NO_PATH, CHANGED)
    assert not binder.matching("connected")
    assert take_waiting(listener) == 0


def test_nobody_at_the_address(rig: Rig) -> None:
    address = f"/ip4/{rig.a.ip}/tcp/4001/p2p/{STRANGER}"
    binder = rig.bind("--port", "0", "--once", "--timeout", "5", to=address, ready=False)
    assert binder.exit_code() == NO_PATH


def test_pin_of_somebody_else(rig: Rig) -> None:
    exposer = rig.expose("--port", "9")
    binder = rig.bind("--port", "0", "--pin", STRANGER, to=exposer, ready=False)
    assert binder.exit_code() == CHANGED
    assert STRANGER[-6:] in binder.log


def test_the_first_identity_is_pinned(rig: Rig) -> None:
    """The same name under a new key is refused, until the user says so."""
    first = rig.expose("--port", str(rig.echo_service()), home="a")
    binder = rig.bind("--port", "0", to=first)
    binder.wait("pinned", peer_id=first.wait("ready")["peer_id"])
    with rig.dial(local_port(binder)) as client:
        ask_echo(client)
    for process in (binder, first):
        process.process.terminate()
        process.exit_code()
    second = rig.expose("--port", str(rig.echo_service()), home="impostor")
    refused = rig.bind("--port", "0", to=second, ready=False)
    assert refused.exit_code() == CHANGED
    second.process.terminate()
    second.exit_code()
    again = rig.expose("--port", str(rig.echo_service()), home="a")
    binder = rig.bind("--port", "0", to=again)
    assert not binder.matching("pinned")
    ask_echo(rig.dial(local_port(binder)))


def test_allow(rig: Rig) -> None:
    friend = peer_id(rig, "b")
    exposer = rig.expose("--port", str(rig.echo_service()), "--allow", friend)
    binder = rig.bind("--port", "0", to=exposer)
    ask_echo(rig.dial(local_port(binder)))
    other = rig.bind("--port", "0", "--once", to=exposer, home="c", ready=False)
    assert other.exit_code() == REFUSED
    exposer.wait("rejected", peer_id=peer_id(rig, "c"))
    ask_echo(rig.dial(local_port(binder)))


def test_several_binders_at_once(rig: Rig) -> None:
    exposer = rig.expose("--port", str(rig.echo_service()))
    binders = [
        rig.bind("--port", "0", to=exposer, host=host, home=home)
        for host, home in ((rig.b, "b"), (rig.c, "c"), (rig.a, "d"), (rig.b, "e"))
    ]
    for binder in binders:
        ask_echo(rig.dial(local_port(binder), host=binder.host))


def test_two_binders_share_one_identity(rig: Rig) -> None:
    """Two binders of one user and machine are two sessions, not one fighting over itself."""
    exposer = rig.expose("--port", str(rig.echo_service()))
    one, two = (rig.bind("--port", "0", to=exposer) for _ in range(2))
    first, second = rig.dial(local_port(one)), rig.dial(local_port(two))
    for _ in range(3):
        ask_echo(first)
        ask_echo(second)
    assert not one.matching("disconnected")
    assert not two.matching("disconnected")


def test_identity_outlives_the_process(rig: Rig) -> None:
    before = peer_id(rig, "a", "--id", NAME)
    exposer = rig.expose("--port", "9")
    assert exposer.wait("ready")["peer_id"] == before
    key = [path for path in rig.home("a").rglob("*") if path.is_file()]
    assert key
    assert all(path.stat().st_mode & 0o077 == 0 for path in key)
