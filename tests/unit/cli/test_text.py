from __future__ import annotations

import re

import pytest

from pt.cli.text import TextView, duration, size
from pt.tunnel import events as ev
from tests.unit.cli.samples import (
    COMMAND,
    EVENTS,
    LAN,
    LOOPBACK,
    PEER,
    PUBLIC,
    READY_BIND,
    READY_TCP,
)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 ms"), (0.0234, "23 ms"), (1, "1.0 s"), (59.94, "59.9 s"), (389, "6m29s"),
     (3599.6, "1h00m"), (7500, "2h05m")],
)  # fmt: skip
def test_duration(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (1_234_567, "1.2 MB"), (48_000_000, "48.0 MB"),
     (999_960_000, "1.0 GB"), (250_000_000, "250 MB"), (10**15, "1.0 PB")],
)  # fmt: skip
def test_size(count: int, text: str) -> None:
    assert size(count) == text


def show(event: ev.Event, **options: bool) -> list[str]:
    return [line.text for line in TextView(name="x.y", **options).event(event, 0)]


@pytest.mark.parametrize("event", EVENTS, ids=lambda event: type(event).__name__)
def test_each_event_is_shown_without_colour(event: ev.Event) -> None:
    lines = TextView(name="x.y", verbose=True).event(event, 0)
    assert lines
    assert all("\x1b" not in line.text and "\n" not in line.text for line in lines)
    assert any(line.to_stdout for line in lines) == isinstance(event, ev.Ready)


@pytest.mark.parametrize("event", EVENTS, ids=lambda event: type(event).__name__)
def test_colour_changes_nothing_else(event: ev.Event) -> None:
    coloured = [re.sub(r"\x1b\[\d+m", "", text) for text in show(event, colour=True)]
    assert coloured == show(event)


def test_ready_of_the_exposer_gives_the_commands_to_paste() -> None:
    here, elsewhere = show(READY_TCP)
    assert here == f"READY    on the other machine:  {COMMAND}"
    assert elsewhere == f"         from another network:  {COMMAND} --peer {PUBLIC}"


def test_ready_for_this_network_only_and_then_for_others() -> None:
    event = ev.Ready(peer_id=PEER, addresses=(LAN,), bind_command=COMMAND, outside=False)
    assert (
        show(event)[-1] == "         this network only, so far: it is said when others can connect"
    )
    assert "only" not in show(ev.Ready(peer_id=PEER, addresses=(LAN,), bind_command=COMMAND))[-1]
    reachable = ev.Reachable(addresses=(LAN, PUBLIC), bind_command=COMMAND)
    assert show(reachable) == [f"reach    from other networks, too:  {COMMAND}"]


@pytest.mark.parametrize(
    ("addresses", "best"),
    [((LOOPBACK, LAN), LAN), ((LOOPBACK,), LOOPBACK), ((PUBLIC, LAN), PUBLIC)],
)
def test_the_address_offered(addresses: tuple, best: object) -> None:
    event = ev.Ready(peer_id=PEER, addresses=addresses, bind_command=COMMAND)
    assert show(event)[1].endswith(f" --peer {best}")


def test_a_command_that_has_an_address_gets_no_second_one() -> None:
    event = ev.Ready(peer_id=PEER, addresses=(LAN,), bind_command=f"{COMMAND} --peer {LAN}")
    assert len(show(event)) == 1


def test_ready_of_the_binder_tells_what_to_try() -> None:
    assert show(READY_BIND) == ["READY    127.0.0.1:2022 → x.y   try: ssh -p 2022 user@127.0.0.1"]


def test_ready_of_several_ports_names_each() -> None:
    ports = (ev.BoundPort(local=1, remote=2), ev.BoundPort(local=3, remote=4, host="::1"))
    assert show(ev.Ready(ports=ports)) == [
        "READY    127.0.0.1:1 → x.y port 2",
        "READY    [::1]:3 → x.y port 4",
    ]


def test_ready_on_stdio() -> None:
    assert show(ev.Ready(peer_id=PEER)) == ["READY    stdin and stdout"]


def test_open_mode_is_loud() -> None:
    text = "\n".join(show(ev.Started(peer_id=PEER, name="x", strength="open: no authentication")))
    assert "NO AUTHENTICATION" in text


def test_a_weak_name_is_advised_against() -> None:
    weak = show(ev.Started(peer_id=PEER, strength="weak: about 12 bits"))
    strong = show(ev.Started(peer_id=PEER, strength="strong: about 80 bits"))
    assert "leave --id out" in weak[1]
    assert "leave --id out" not in strong[1]


def test_paths_after_ready_are_a_log() -> None:
    connected = ev.Connected(peer_id=PEER, path="direct/tcp", address=LAN, rtt=0.023)
    view = TextView()
    (line,) = view.event(connected, 0)
    assert line.text == f"path     {PEER.short()} direct/tcp 192.168.1.7:4001 23 ms"
    view.event(READY_TCP, 0)
    (line,) = view.event(connected, 0)
    assert line.text[9:] == f"+ {PEER.short()} direct/tcp 192.168.1.7:4001 23 ms"


def test_a_stop_that_was_asked_for_is_not_news() -> None:
    assert show(ev.Stopped(reason="closed")) == []


def test_connections_begin_with_the_time_and_can_be_silenced() -> None:
    opened = ev.StreamOpened(stream=7, peer_id=PEER, port=22)
    closed = ev.StreamClosed(stream=7, sent=1_234_567, received=48, seconds=389.0)
    refused = ev.StreamRefused(stream=8, port=80, code="refused", reason="no")
    assert re.fullmatch(rf"\d\d:\d\d:\d\d \+ #7 {re.escape(PEER.short())} port 22", show(opened)[0])
    assert show(closed)[0][9:] == "- #7 6m29s ↑1.2 MB ↓48 B"
    for event in (opened, closed, refused):
        assert show(event, quiet=True) == []
    assert show(ev.Warned(message="m"), quiet=True)


def test_verbose_tells_more() -> None:
    for event in (READY_TCP, EVENTS[0], *[e for e in EVENTS if isinstance(e, ev.Connected)]):
        assert len("".join(show(event, verbose=True))) > len("".join(show(event)))


def test_what_autonat_found_out_is_told_with_verbose() -> None:
    (event,) = [each for each in EVENTS if isinstance(each, ev.AddressReachability)]
    assert show(event) == []
    (line,) = show(event, verbose=True)
    assert line.startswith("autonat")
    assert str(event.address) in line


def progress(seconds: float, *, done: bool = False, **facts: object) -> ev.Progress:
    facts = {
        "calls": 1,
        "asked": 24,
        "answered": 20,
        "failed": 1,
        "stored": 0,
        "cut": False,
    } | facts
    return ev.Progress(
        medium="amino", bytes=96_123, sockets=14, seconds=seconds, done=done, **facts
    )


def test_how_far_a_look_up_has_come_is_told_with_verbose() -> None:
    going, over = progress(1.0), progress(2.5, done=True, stored=3, cut=True)
    assert show(going, verbose=True) == [
        "progress amino … 24 asked, 20 answered, 96.1 kB, 14 sockets (1.0 s)"
    ]
    (line,) = show(over, verbose=True)
    assert line.endswith(
        "20 answered, 3 stored, 96.1 kB, 14 sockets (2.5 s); cut short by its budget"
    )
    assert show(going) == show(over) == []


def test_a_look_up_that_takes_long_is_told_of_once() -> None:
    view = TextView()
    steps = [progress(seconds) for seconds in (4.0, 5.1, 6.1)]
    assert [len(view.event(step, 0)) for step in steps] == [0, 1, 0]
    assert view.event(progress(7.0, done=True), 0) == []
    assert len(view.event(progress(5.0), 0)) == 1, "another one"


def test_a_reason_to_retry_is_told_once() -> None:
    view = TextView()
    lines = [
        view.event(ev.Retrying(delay=delay, reason=reason), 0)[0].text[9:]
        for delay, reason in ((0.1, "refused"), (0.2, "refused"), (0.4, "unreachable"))
    ]
    assert lines == [
        "next attempt in 100 ms: refused",
        "next attempt in 200 ms: still the same",
        "next attempt in 400 ms: unreachable",
    ]
