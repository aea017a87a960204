"""How a command ends: drained, interrupted, killed."""

from __future__ import annotations

import signal
import socket

import pytest

from tests.e2e.harness import Rig, ask_echo, direct_address, local_port, read_all

pytestmark = [pytest.mark.netns, pytest.mark.timeout(120)]
TERMINATED, INTERRUPTED = 143, 130


def until_closed(rig: Rig, port: int) -> None:
    """Wait for draining to begin: the port closes."""
    for _ in range(2000):
        try:
            rig.dial(port).close()
        except ConnectionResetError:
            continue  # it was in the queue when the listener closed
        except ConnectionRefusedError:
            return
    pytest.fail("still takes new connections")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_idle_ends_at_once(rig: Rig, number: signal.Signals) -> None:
    exposer, binder, _ = rig.tunnel(rig.echo_service())
    for process in (binder, exposer):
        process.signal(number)
        assert process.exit_code(20) == 128 + number
        process.wait("stopped")
        assert "Traceback" not in process.log


def test_sigterm_lets_open_connections_finish(rig: Rig) -> None:
    _, binder, port = rig.tunnel(rig.echo_service())
    client = rig.dial(port)
    ask_echo(client)
    binder.signal(signal.SIGTERM)
    until_closed(rig, port)
    ask_echo(client, bytes(1_000_000))
    client.shutdown(socket.SHUT_WR)
    assert read_all(client) == b""
    assert binder.exit_code(20) == TERMINATED


def test_sigterm_of_the_exposer_lets_open_connections_finish(rig: Rig) -> None:
    exposer, _, port = rig.tunnel(rig.echo_service())
    client = rig.dial(port)
    ask_echo(client)
    exposer.signal(signal.SIGTERM)
    ask_echo(client, bytes(1_000_000))
    client.shutdown(socket.SHUT_WR)
    assert read_all(client) == b""
    assert exposer.exit_code(20) == TERMINATED


def test_sigint_twice_does_not_wait(rig: Rig) -> None:
    _, binder, port = rig.tunnel(rig.echo_service())
    client = rig.dial(port)
    ask_echo(client)
    binder.signal(signal.SIGINT)
    until_closed(rig, port)
    assert binder.running()
    ask_echo(client)
    binder.signal(signal.SIGINT)
    assert binder.exit_code(20) == INTERRUPTED
    with pytest.raises(ConnectionResetError):
        client.recv(1)


def test_interrupted_while_looking(rig: Rig) -> None:
    binder = rig.bind("--port", "0", ready=False)
    binder.wait("looking_up")
    binder.signal(signal.SIGINT)
    assert binder.exit_code(20) == INTERRUPTED


def test_the_port_is_free_again(rig: Rig) -> None:
    exposer = rig.expose("--port", str(rig.echo_service()))
    for _ in range(2):
        binder = rig.bind("--port", "2022", to=direct_address(exposer))
        assert local_port(binder) == 2022
        with rig.dial(2022) as client:
            ask_echo(client)
        binder.signal(signal.SIGTERM)
        binder.exit_code()
