"""The status page of a real `pt relay` in a real browser, while tunnels run through it."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from pt.identity.peer_id import PeerId
from tests.e2e.browser import Browser, browser_at, until
from tests.e2e.harness import MIB, PtProcess, Rig, ask_echo, local_port

pytestmark = [pytest.mark.netns, pytest.mark.timeout(180)]

PAGE = "127.0.0.1:9090"
NOBODY = "12D3KooWEyoppNCUx8Yx66oV9fJnriXwCcXwDDUA2kj6vnc6iDEp"
SHOT = Path(__file__).resolve().parents[2] / "docs" / "relay-status.png"


class Relay:
    """A relay on host `c`; hosts `a` and `b` reach it, but not each other."""

    def __init__(self, rig: Rig) -> None:
        self.rig = rig
        self.secret = rig.tmp / "secret"
        self.secret.write_text("a secret that is long enough\n")
        rig.lan.cut(rig.a, rig.b)
        self.process = rig.pt(
            "relay", "--json", "--http", PAGE, "--secret-file", str(self.secret),
            "--listen", "/ip4/0.0.0.0/tcp/4001", "/ip4/0.0.0.0/tcp/4001/ws",
            host=rig.c, home="c",
        )  # fmt: skip
        ready = self.process.wait("relay_ready")
        self.peer_id = str(ready["peer_id"])
        self.address = f"/ip4/{rig.c.ip}/tcp/4001/p2p/{self.peer_id}"
        assert ready["page"] == f"http://{PAGE}/"

    def expose(self, port: int, home: str, *argv: str) -> PtProcess:
        """Start `pt tcp` with a reservation."""
        listen = ("--listen", f"/ip4/{self.rig.a.ip}/tcp/0")
        relay = ("--relay", self.address)
        return self.rig.expose("--port", str(port), *listen, *relay, *argv, home=home)

    def bind(self, exposer: PtProcess, home: str) -> PtProcess:
        """Start `pt bind` through the relay."""
        peer = f"{self.address}/p2p-circuit/p2p/{exposer.wait('ready')['peer_id']}"
        return self.rig.bind("--port", "0", to=peer, home=home)

    def metrics(self) -> dict[str, float]:
        """The metrics, as Prometheus' own parser reads them; labels' values follow the name."""
        text = self.rig.c.run(["curl", "-sf", f"http://{PAGE}/metrics"]).stdout.decode()
        return {
            " ".join((sample.name, *sample.labels.values())): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }


@pytest.fixture
def relay(rig: Rig) -> Relay:
    return Relay(rig)


@pytest.fixture
def browser(rig: Rig, relay: Relay, tmp_path: Path) -> Iterator[Browser]:
    with rig.c.inside(), browser_at(tmp_path) as one:
        one.look(width=1200)
        one.driver.get(f"http://{PAGE}/")
        until(one, lambda: one.text("state") == "live")
        yield one


def short(process: PtProcess) -> str:
    return PeerId.parse(str(process.wait("started")["peer_id"])).short()


def flow(sock: socket.socket, size: int) -> threading.Thread:
    """Send to an echo service and take back what comes, in a thread."""

    def run() -> None:
        ask_echo(sock, bytes(size))

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread


def test_it_follows_what_happens(relay: Relay, browser: Browser) -> None:
    rig = relay.rig
    assert browser.text("circuits-open") == "0"
    assert browser.text("circuits-more") == "No circuit is open."
    assert browser.text("reservations-more") == "Nobody has a reservation."
    assert relay.address in browser.text("addresses")
    assert browser.text("records") == "0"
    assert browser.text("records-total") == "0 B, 0 other relays"

    exposer = relay.expose(rig.echo_service(), "a", "--relay-secret-file", str(relay.secret))
    until(browser, lambda: browser.text("reservations-held") == "1")
    (row,) = browser.rows("reservations")
    assert row[:2] == [short(exposer), "user"]

    binder = relay.bind(exposer, "b")
    assert binder.wait("connected")["path"] == "relay/raw"
    until(browser, lambda: len(browser.rows("circuits")) == 1)
    (row,) = browser.rows("circuits")
    assert row[:4] == ["raw", short(binder), short(exposer), "user"]
    assert browser.text("circuits-kinds") == "1 raw, 0 libp2p"
    assert browser.rows("reservations")[0][2] == "1"

    moved = relay.metrics()["pt_relay_relayed_bytes_total raw"]
    sock = rig.dial(local_port(binder))
    ask_echo(sock, bytes(8 * MIB))
    until(browser, lambda: browser.text("bytes-total") in ("16.8 MB", "16.9 MB", "17.0 MB"))
    found = relay.metrics()
    assert 16 * MIB < found["pt_relay_relayed_bytes_total raw"] - moved < 17 * MIB
    assert found["pt_relay_circuits raw"] == 1
    assert found["pt_relay_reservations user"] == 1
    assert found["pt_relay_reservations stranger"] == 0

    # Nothing but what the relay itself is called names an address.
    page = (
        browser.driver.page_source
        + rig.c.run(["curl", "-sf", f"http://{PAGE}/status.json"]).stdout.decode()
    )
    assert rig.c.ip in page
    assert not [host for host in (rig.a, rig.b) if host.ip in page]
    assert str(exposer.wait("ready")["peer_id"]) not in page

    binder.process.terminate()
    assert binder.exit_code() == 143
    until(browser, lambda: browser.text("circuits-open") == "0")
    exposer.process.terminate()
    assert exposer.exit_code() == 143
    until(browser, lambda: browser.text("reservations-held") == "0")
    assert browser.text("bytes-total").startswith(("16.", "17."))  # it stays counted
    assert browser.complaints() == []


def test_drain_and_end(relay: Relay, browser: Browser) -> None:
    rig = relay.rig
    exposer = relay.expose(rig.echo_service(), "a", "--relay-secret-file", str(relay.secret))
    binder = relay.bind(exposer, "b")
    sock = rig.dial(local_port(binder))
    ask_echo(sock)
    until(browser, lambda: browser.text("circuits-open") == "1")
    relay.process.process.terminate()
    until(browser, lambda: browser.text("state") == "draining")
    done = rig.c.run(["curl", "-s", "-w", "%{http_code}", f"http://{PAGE}/healthz"])
    assert done.stdout == b"draining\n503"
    ask_echo(sock)  # what is open goes on
    relay.process.process.terminate()
    assert relay.process.exit_code() == 143
    until(browser, lambda: browser.text("state") == "lost")


def test_strangers_are_told_apart(relay: Relay, browser: Browser) -> None:
    rig = relay.rig
    exposer = relay.expose(rig.echo_service(), "a")
    until(browser, lambda: browser.text("reservations-held") == "1")
    assert browser.rows("reservations")[0][1] == "stranger"
    binder = relay.bind(exposer, "b")
    sock = rig.dial(local_port(binder))
    ask_echo(sock)
    until(browser, lambda: len(browser.rows("circuits")) == 1)
    assert browser.rows("circuits")[0][3] == "stranger"
    assert "1 of 128" in browser.text("grades")
    # Somebody who holds no reservation cannot be reached.
    peer = f"{relay.address}/p2p-circuit/p2p/{NOBODY}"
    seeker = rig.bind("--port", "0", to=peer, home="n", ready=False)
    reason = str(relay.process.wait("relay_refused")["reason"])
    until(browser, lambda: len(browser.rows("refusals")) == 1)
    (row,) = browser.rows("refusals")
    assert row[0] == f"connect: {reason}"
    assert int(row[1]) <= len(seeker.matching("retrying")) + 1


def test_several_tunnels_at_once(relay: Relay, browser: Browser) -> None:
    """With PT_SCREENSHOT=1 it takes longer and leaves the picture of the documentation."""
    picture = os.environ.get("PT_SCREENSHOT") == "1"
    rig = relay.rig
    port = rig.echo_service()
    known = ("--relay-secret-file", str(relay.secret))
    exposers = [relay.expose(port, "a0", *known), relay.expose(port, "a1", *known)]
    exposers.append(relay.expose(port, "a2"))
    binders = [relay.bind(exposers[i % 3], f"b{i}") for i in range(5)]
    socks = [rig.dial(local_port(binder)) for binder in binders]
    sizes = (16 * MIB, 3 * MIB, 500, MIB, 30_000)
    enough = time.monotonic() + (40 if picture else 0)

    def carry() -> None:
        for thread in [flow(sock, size) for sock, size in zip(socks, sizes, strict=True)]:
            thread.join()

    while True:
        carry()
        if time.monotonic() >= enough:
            break
    until(browser, lambda: len(browser.rows("circuits")) >= 5)
    sources = {row[1] for row in browser.rows("circuits")}
    assert {short(binder) for binder in binders} <= sources

    def a_rate_is_shown() -> bool:
        carry()
        return any(not row[-1].startswith("0 ") for row in browser.rows("circuits"))

    until(browser, a_rate_is_shown)
    if picture:
        height = browser.script("return document.documentElement.scrollHeight")
        assert isinstance(height, int)
        browser.look(width=1200, height=height)
        assert browser.driver.save_screenshot(str(SHOT))
