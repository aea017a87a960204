from __future__ import annotations

import json
from pathlib import Path

import pytest

from pt.cli.jsonlines import JsonLines
from pt.cli.main import COMMANDS, main
from pt.cli.relay import state_of
from pt.cli.relay_text import RelayView
from pt.cli.text import Line
from pt.node.state import default_path
from pt.relayd import events as ev
from pt.tunnel.events import Event, Stopped, Warned
from pt.wire.multiaddr import Multiaddr
from tests.unit.cli.samples import PEER

ADDRESS = Multiaddr.tcp("11.0.0.7", 4001).with_peer(PEER.raw)
READY = ev.RelayReady(peer_id=PEER, addresses=(ADDRESS,), option=f"--relay {ADDRESS}", secret=True)
LINES: dict[str, Event] = {
    f"+ {PEER} reserved as user": ev.Reserved(peer_id=PEER, grade="user", seconds=3600.0),
    f"- {PEER} left: not renewed": ev.ReservationEnded(peer_id=PEER, reason="not renewed"),
    f"+ #3 raw {PEER.short()} → {PEER.short()} (stranger)": ev.CircuitOpened(
        circuit=3, kind="raw", source=PEER, target=PEER, grade="stranger"
    ),
    "- #3 1.5 s →1.2 MB ←10 B (its time was up)": ev.CircuitClosed(
        circuit=3, kind="raw", sent=1_234_567, received=10, seconds=1.5, reason="its time was up"
    ),
    "- #3 1.5 s →0 B ←0 B": ev.CircuitClosed(
        circuit=3, kind="raw", sent=0, received=0, seconds=1.5, reason=""
    ),
    f"! connect of {PEER.short()} refused: full": ev.RelayRefused(
        what="connect", reason="full", peer_id=PEER
    ),
    f"! connect of {PEER.short()} refused: full (7 times)": ev.RelayRefused(
        what="connect", reason="full", peer_id=PEER, count=7
    ),
    "configuration read again": ev.RelayReloaded(ignored=()),
    "configuration read again; needs a restart: listen, http": ev.RelayReloaded(
        ignored=("listen", "http")
    ),
    "overlay: other relays answer": ev.OverlayJoined(nodes=1),
    "overlay: no other relay answers any more": ev.OverlayAlone(),
    "overlay: 12 records are back, 3 had expired": ev.OverlayRestored(
        records=12, dropped=3, seconds=0.5
    ),
    "overlay: 12 records are back": ev.OverlayRestored(records=12, dropped=0, seconds=0.5),
    "STUN: the relay at /ip4/11.0.0.7/udp/4001 answers": ev.StunPeer(
        address=Multiaddr.parse("/ip4/11.0.0.7/udp/4001"), answers=True
    ),
    "STUN: the relay at /ip4/11.0.0.7/udp/4001 answers no more": ev.StunPeer(
        address=Multiaddr.parse("/ip4/11.0.0.7/udp/4001"), answers=False
    ),
    "stopping: 2 circuits go on, users of 5 reservations were told": ev.RelayDraining(
        circuits=2, reservations=5
    ),
    "warning: nothing was changed": Warned(message="nothing was changed"),
}


def show(event: Event, **options: object) -> list[Line]:
    return RelayView(**options).event(event, 0)


@pytest.mark.parametrize("text", LINES)
def test_each_event_is_one_line(text: str) -> None:
    (line,) = show(LINES[text])
    assert line.text.partition(" ")[2] == text
    assert not line.to_stdout


def test_quiet_is_about_circuits_alone() -> None:
    for text, event in LINES.items():
        per_circuit = isinstance(event, ev.CircuitOpened | ev.CircuitClosed)
        assert bool(show(event, quiet=True)) is not per_circuit, text


def test_ready_is_what_users_need_and_alone_on_stdout() -> None:
    lines = show(READY, secret_file="relay.secret")
    (ready,) = [line for line in lines if line.to_stdout]
    said = f"pt tcp --port 22 --relay {ADDRESS} --relay-secret-file relay.secret"
    assert ready.text.startswith("READY")
    assert ready.text.endswith(said)
    assert any(str(ADDRESS) in line.text for line in lines if not line.to_stdout)


def test_ready_without_a_secret_and_with_a_page() -> None:
    lines = show(
        ev.RelayReady(
            peer_id=PEER,
            addresses=(ADDRESS,),
            option=f"--relay {ADDRESS}",
            page="http://127.0.0.1:9090/",
            private=True,
        )
    )
    (ready,) = [line for line in lines if line.to_stdout]
    assert "--relay-secret-file" not in ready.text
    assert any("http://127.0.0.1:9090/" in line.text for line in lines)
    assert any("strangers get nothing" in line.text for line in lines)


def test_colour_marks_and_nothing_else() -> None:
    (line,) = show(LINES["configuration read again"], colour=True)
    assert "\x1b[" in line.text
    assert show(Stopped(reason="closed")) == []


def test_events_as_json_lines() -> None:
    facts = json.loads(JsonLines().event(READY, 5.0))
    assert facts == {
        "v": 1,
        "event": "relay_ready",
        "time": 5.0,
        "peer_id": str(PEER),
        "addresses": [str(ADDRESS)],
        "option": f"--relay {ADDRESS}",
        "secret": True,
        "private": False,
        "page": None,
        "overlay": [],
        "stun": [],
    }
    names = {json.loads(JsonLines().event(event, 0))["event"] for event in LINES.values()}
    assert names == {
        "reserved", "reservation_ended", "circuit_opened", "circuit_closed", "relay_refused",
        "relay_reloaded", "relay_draining", "warned", "overlay_joined", "overlay_alone",
        "overlay_restored", "stun_peer",
    }  # fmt: skip


def test_help_shows_how(capsys: pytest.CaptureFixture[str]) -> None:
    assert "relay" in COMMANDS
    with pytest.raises(SystemExit) as done:
        main(["relay", "--help"])
    assert done.value.code == 0
    said = capsys.readouterr().out
    for word in (
        "--make-secret",
        "--private",
        "--http",
        "SIGHUP",
        "--config",
        "--bootstrap",
        "--no-overlay",
    ):
        assert word in said


def test_a_relay_is_another_peer_than_the_tunnels_of_the_machine(tmp_path: Path) -> None:
    assert state_of(str(tmp_path)).path == tmp_path
    assert state_of(None).path == default_path() / "relay"


@pytest.mark.parametrize(
    ("argv", "why"),
    [
        (["--private"], "serves nobody"),
        (["--secret-file", "/nowhere"], "/nowhere"),
        (["--http", "9090"], "--http"),
        (["--bootstrap", "/ip4/11.0.0.7"], "--bootstrap /ip4/11.0.0.7"),
        (["--bootstrap", "/ip4/11.0.0.7/tcp/4001", "--no-overlay"], "needs the overlay"),
        (["--listen", "/ip4/127.0.0.1/tcp/0/tls/ws"], "--tls-cert"),
        (["--stun-peer", "/ip4/11.0.0.7/tcp/4001"], "--stun-secret-file"),
        (["--stun-port", "70000"], "stun-port = 70000"),
    ],
)
def test_what_makes_no_sense_is_said_before_anything_is_started(
    argv: list[str], why: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert main(["relay", "--home", str(tmp_path), *argv]) == 2
    assert why in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
