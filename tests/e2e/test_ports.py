"""Which ports: several in one process, port 0, stdio, targets elsewhere, taken and refused ones."""

from __future__ import annotations

import subprocess
import time

import pytest

from tests.e2e.harness import (
    LISTEN,
    NAME,
    PtProcess,
    Rig,
    ask_echo,
    direct_address,
    echo,
    local_port,
    read_all,
    serve_connections,
)

pytestmark = [pytest.mark.netns, pytest.mark.timeout(120)]


def greeter(rig: Rig, word: bytes) -> int:
    listener = rig.listen(rig.a)
    listener.settimeout(None)
    serve_connections(listener, lambda sock: sock.sendall(word))
    return int(listener.getsockname()[1])


def closed_at_once(rig: Rig, port: int) -> float:
    """Seconds until a client is turned away; a reset, never a silent end or a hang."""
    started = time.monotonic()
    with pytest.raises((ConnectionResetError, ConnectionRefusedError)):
        rig.dial(port, timeout=20).recv(1)
        pytest.fail("a FIN instead of a reset")
    return time.monotonic() - started


def test_several_ports_in_one_process(rig: Rig) -> None:
    services = [greeter(rig, word) for word in (b"one", b"two", b"three")]
    exposer = rig.expose(*(flag for port in services for flag in ("--port", str(port))))
    binder = rig.bind(*(flag for port in services for flag in ("-p", f"0:{port}")), to=exposer)
    answers = [read_all(rig.dial(local_port(binder, index))) for index in range(3)]
    assert answers == [b"one", b"two", b"three"]


def test_the_chosen_local_port_listens(rig: Rig) -> None:
    exposer = rig.expose("--port", str(greeter(rig, b"hello")))
    binder = rig.bind("--port", "2022", to=exposer)
    assert local_port(binder) == 2022
    assert read_all(rig.dial(2022)) == b"hello"
    assert binder.wait("ready")["event"] == "ready"


def test_only_this_machine_reaches_the_local_port(rig: Rig) -> None:
    exposer = rig.expose("--port", str(greeter(rig, b"hello")))
    rig.bind("--port", "2022", to=exposer)
    with pytest.raises(ConnectionRefusedError):
        rig.dial(2022, host=rig.c, ip=rig.b.ip)


def test_bind_host_opens_it_to_others(rig: Rig) -> None:
    exposer = rig.expose("--port", str(greeter(rig, b"hello")))
    rig.bind("--port", "2022", "--bind-host", "0.0.0.0", to=exposer)
    assert read_all(rig.dial(2022, host=rig.c, ip=rig.b.ip)) == b"hello"


def test_a_target_on_another_host(rig: Rig) -> None:
    listener = rig.listen(rig.c, ip=rig.c.ip)
    listener.settimeout(None)
    serve_connections(listener, lambda sock: sock.sendall(b"from c"))
    target = f"80:{rig.c.ip}:{listener.getsockname()[1]}"
    exposer = rig.expose("--port", target)
    binder = rig.bind("-p", "0:80", to=exposer)
    assert read_all(rig.dial(local_port(binder))) == b"from c"


def test_stdio_carries_data_and_nothing_else(rig: Rig) -> None:
    exposer = rig.expose("--port", str(rig.echo_service()))
    argv = ["bind", "--port", "-", "--id", NAME, "--no-lan", "--peer", direct_address(exposer)]
    pipe = rig.pt(*argv, stdin=subprocess.PIPE)
    data = bytes(range(256)) * 4000 + b"\n"
    assert pipe.process.stdin is not None
    pipe.process.stdin.write(data)
    pipe.process.stdin.close()
    assert pipe.exit_code() == 0
    assert pipe.output == data


def test_a_refused_target(rig: Rig) -> None:
    exposer = rig.expose("--port", "9")
    binder = rig.bind("--port", "0", to=exposer)
    assert closed_at_once(rig, local_port(binder)) < 10
    told = binder.wait("stream_refused")
    assert told["code"] == "refused"
    assert told["reason"]
    closed_at_once(rig, local_port(binder))
    binder.wait("stream_refused", count=2)
    assert exposer.running()


def test_a_target_down_then_up(rig: Rig) -> None:
    port = rig.echo_service()
    exposer = rig.expose("--port", "7000")
    binder = rig.bind("--port", "0", to=exposer)
    closed_at_once(rig, local_port(binder))
    listener = rig.listen(rig.a, 7000)
    listener.settimeout(None)
    serve_connections(listener, echo)
    ask_echo(rig.dial(local_port(binder)))
    assert port != 7000


def test_a_port_that_is_not_exposed(rig: Rig) -> None:
    hidden, offered = rig.echo_service(), rig.echo_service()
    exposer = rig.expose("--port", str(offered))
    binder = rig.bind("-p", f"0:{hidden}", "-p", f"0:{offered}", to=exposer)
    assert closed_at_once(rig, local_port(binder, 0)) < 10
    assert binder.wait("stream_refused")["code"] == "not_offered"
    ask_echo(rig.dial(local_port(binder, 1)))


def test_a_local_port_in_use(rig: Rig) -> None:
    rig.listen(rig.b, 2022)
    peer = "/ip4/11.1.0.1/tcp/4001"
    binder = rig.bind("--port", "2022", to=peer, ready=False)
    assert binder.exit_code() == 6
    assert "2022" in binder.log


def test_a_listen_port_in_use(rig: Rig) -> None:
    rig.listen(rig.a, 4001, ip="0.0.0.0")
    exposer = rig.expose("--port", "22", "--listen", LISTEN, ready=False)
    assert exposer.exit_code() == 6
    assert "4001" in exposer.log


@pytest.mark.parametrize(
    "argv",
    [
        ["bind", "--port", "2022", "--id", ""],
        ["bind", "--port", "2022", "--id", "  "],
        ["bind", "--port", "2022"],
        ["tcp", "--port", "22", "--id", ""],
        ["tcp", "--id", NAME],
        ["tcp", "--port", "70000", "--id", NAME],
        ["tcp", "--port", "x", "--id", NAME],
        ["bind", "--port", "1:2:3:4", "--id", NAME],
        ["bind", "--port", "0", "--id", NAME, "--peer", "/ip4/11.1.0.1"],
        ["bind", "--port", "0", "--id", NAME, "--peer", "11.1.0.1:4001"],
        ["bind", "--port", "0", "--id", NAME, "--peer", "/ip4/11.1.0.1/tcp/4001/p2p/nonsense"],
        ["bind", "--port", "0", "--id", NAME, "--pin", "nonsense"],
        ["tcp", "--port", "22", "--id", NAME, "--listen", "/ip4/1.2.3/tcp/1"],
        ["tcp", "--port", "22", "--id", NAME, "--allow", "nonsense"],
        ["bind", "--port", "0", "--id", NAME, "--timeout", "-1"],
        ["nonsense"],
    ],
    ids=" ".join,
)
def test_usage_errors(shared_rig: Rig, argv: list[str]) -> None:
    process: PtProcess = shared_rig.pt(*argv)
    assert process.exit_code() == 2
    assert "Traceback" not in process.log
    assert process.log.strip(), "an error without a message"
