"""Two hosts of one LAN and nothing but a name."""

from __future__ import annotations

import shlex
import time

import pytest

from tests.e2e.harness import NAME, Rig, ask_echo, local_port

pytestmark = [pytest.mark.netns, pytest.mark.timeout(120)]
FIND_BUDGET = 5.0
"""About a second on an idle machine; this one may be busy."""


def test_the_name_alone_is_enough(rig: Rig, record_property: pytest.RecordProperty) -> None:
    exposer = rig.expose("--port", str(rig.echo_service()), lan=True)
    started = time.monotonic()
    binder = rig.bind("--port", "2022")
    ask_echo(rig.dial(2022))
    seconds = time.monotonic() - started
    record_property("seconds from start of pt bind to the first echo", round(seconds, 3))
    print(f"pt bind on the LAN: first echo after {seconds:.3f} s")
    found = binder.wait("found")
    assert found["medium"] == "lan"
    assert found["peer_id"] == exposer.wait("ready")["peer_id"]
    assert float(str(found["seconds"])) < FIND_BUDGET


def test_the_binder_may_come_first(rig: Rig) -> None:
    binder = rig.bind("--port", "2022", ready=False)
    binder.wait("looking_up")
    rig.expose("--port", str(rig.echo_service()), lan=True)
    binder.wait("connected", timeout=30)
    ask_echo(rig.dial(2022))


def test_the_printed_command_works_as_it_is(rig: Rig) -> None:
    exposer = rig.expose("--port", str(rig.echo_service()), lan=True)
    command = shlex.split(str(exposer.wait("ready")["bind_command"]))
    assert command[:2] == ["pt", "bind"]
    binder = rig.pt(*command[1:], "--json")
    ask_echo(rig.dial(local_port(binder)))


def test_two_names_on_one_lan_do_not_mix(rig: Rig) -> None:
    first = rig.expose("--port", str(rig.echo_service()), lan=True, home="a")
    second = rig.expose("--port", str(rig.echo_service(rig.c)), lan=True, host=rig.c,
                        home="c", name=NAME + "-2")  # fmt: skip
    binders = [rig.bind("--port", "0"), rig.bind("--port", "0", name=NAME + "-2", home="d")]
    for binder, exposer in zip(binders, (first, second), strict=True):
        assert binder.wait("found")["peer_id"] == exposer.wait("ready")["peer_id"]
        ask_echo(rig.dial(local_port(binder)))


def test_nothing_on_the_lan(rig: Rig) -> None:
    binder = rig.bind("--port", "0", "--timeout", "2", ready=False)
    assert binder.exit_code() == 3
    assert NAME in binder.log


def test_a_restarted_exposer_is_found_at_its_new_port(rig: Rig) -> None:
    service = rig.echo_service()
    exposer = rig.expose("--port", str(service), lan=True)
    binder = rig.bind("--port", "2022")
    ask_echo(rig.dial(2022))
    exposer.process.kill()
    exposer.exit_code()
    rig.expose("--port", str(service), lan=True)
    binder.wait("connected", count=2)
    ask_echo(rig.dial(2022))
