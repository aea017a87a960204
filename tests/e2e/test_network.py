"""Networks that do not work, by cause: exit codes and what is said; relays without the DNS."""

from __future__ import annotations

import copy
import json
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pt.identity.keys import PrivateKey
from pt.identity.peer_id import PeerId
from pt.lab import Lan
from pt.lab.netns import DEVICE, Host
from pt.node.state import StateDir
from pt.rendezvous.name import NameKeys
from tests.e2e.harness import NAME, PtProcess, Rig, ask_echo, local_port
from tests.e2e.lan_lab import Talker

pytestmark = pytest.mark.netns

ONE, TWO = (
    str(PeerId.from_public_key(PrivateKey.generate(bytes([n]) * 32).public)) for n in (1, 2)
)
QUIET = ("--no-lan", "--no-public")
ZONE = {"relay.lab": ["11.1.0.3"], "text.lab": ['"nothing"']}
NAMED = 'mount --bind $0 /etc/resolv.conf && exec "$@"'
"""A mount namespace of its own, so that the resolvers of the host stay as they are."""
WALL = """table inet wall {{
  chain out {{ type filter hook output priority filter;
    oifname "{device}" tcp dport != 443 reject with {how};
  }}
}}"""
SILENCE = """table inet silence {
  chain in { type filter hook input priority filter; udp dport 53 drop; }
}"""


class NetworkRig(Rig):
    """`c` is where relay and DNS server are; names resolve on hosts `with_names` only."""

    def with_names(self, host: Host, *lines: str) -> Host:
        """The host, with these lines in its /etc/resolv.conf."""
        path = self.tmp / f"resolv-{len(list(self.tmp.iterdir()))}.conf"
        path.write_text("\n".join((*lines, "")))
        other = copy.copy(host)
        prefix = [*host.prefix, "unshare", "--mount", "sh", "-c", NAMED, str(path)]
        other.exec_argv = lambda argv: [*prefix, *argv]  # type: ignore[method-assign]
        return other

    def serve_names(self) -> Talker:
        command = [sys.executable, "-m", "tests.e2e.dns_server", self.c.ip, json.dumps(ZONE)]
        server = Talker(self.c, command)
        server.next("serving")
        return server

    def bind_in_vain(self, *argv: str, host: Host | None = None, home: str = "b") -> PtProcess:
        return self.bind("--port", "0", *QUIET, *argv, host=host, home=home, ready=False)

    def warnings(self, process: PtProcess, words: str) -> list[str]:
        told = [str(event["message"]) for event in process.matching("warned")]
        return [message for message in told if words in message]


def end_of(process: PtProcess) -> tuple[int, str, str]:
    """Exit code, error and message of a command that fails; all three ways of telling agree."""
    code = process.exit_code()
    error = process.wait("error")
    assert error["exit_code"] == code, process.describe()
    assert f"pt: {error['message']}" in process.log
    return code, str(error["error"]), str(error["message"])


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[NetworkRig]:
    with Lan(hosts=3, names=["a", "b", "c"], congestion="reno") as lan:
        made = NetworkRig(lan, tmp_path)
        for home in ("a", "b", "new"):  # the derivation would be what takes longest
            StateDir(made.home(home)).cache_keys(NAME, NameKeys.from_master(bytes(32)))
        try:
            yield made
        finally:
            made.close()


def peers(rig: NetworkRig) -> tuple[str, ...]:
    """Two parties, neither of them there."""
    return (
        "--peer", f"/ip4/{rig.a.ip}/tcp/4001/p2p/{ONE}", f"/ip4/{rig.c.ip}/tcp/4001/p2p/{TWO}",
    )  # fmt: skip


def test_names_that_are_not_resolved(rig: NetworkRig) -> None:
    """Each cause ends with 12 and is told apart; all at the same time, since some take theirs."""
    rig.serve_names()
    rig.a.nft(SILENCE)
    served = (f"nameserver {rig.c.ip}",)
    silent = (f"nameserver {rig.a.ip}",)
    fast = "options timeout:1 attempts:1"
    cases = [
        ("/dns4/nowhere.lab/tcp/4001", served, "does not exist", "20"),
        ("/dns6/relay.lab/tcp/4001", served, "no IPv6 address", "20"),
        ("/dns/text.lab/tcp/4001", served, "no address", "20"),
        (f"/dnsaddr/nowhere.lab/p2p/{ONE}", served, "does not exist", "20"),
        ("/dns/relay.lab/tcp/4001", (), "names no DNS resolver", "20"),
        ("/dns/relay.lab/tcp/4001", ("nameserver 127.0.0.1",), "cannot be reached", "20"),
        (
            "/dns/relay.lab/tcp/4001",
            (*silent, fast),
            f"no answer from the resolver {rig.a.ip}",
            "20",
        ),
        ("/dns/relay.lab/tcp/4001", silent, "no answer from the DNS within 3", "3"),
    ]
    running = [
        rig.bind_in_vain(
            "--once", "--timeout", timeout, "--peer", peer, host=rig.with_names(rig.b, *lines)
        )
        for peer, lines, _, timeout in cases
    ]
    boot = ("--no-lan", "--bootstrap", f"/dnsaddr/boot.lab/p2p/{ONE}", "--timeout", "4")
    running.append(rig.bind("--port", "0", *boot, host=rig.with_names(rig.b), ready=False))
    cases.append(("the public DHT", (), "names no DNS resolver", "4"))
    for process, (_, _, words, _) in zip(running, cases, strict=True):
        code, error, message = end_of(process)
        assert (code, error) == (12, "dns"), process.describe()
        assert words in message


def test_no_network(rig: NetworkRig) -> None:
    rig.b.link_down()
    lost = [
        rig.bind_in_vain("--timeout", "2", *peers(rig)),
        rig.bind_in_vain("--timeout", "2", "--peer", "/dns/relay.lab/tcp/4001",
                         host=rig.with_names(rig.b, f"nameserver {rig.c.ip}")),
        rig.pt("tcp", "--id", "x-unused-name", "--port", "9", "--json", *QUIET),
    ]  # fmt: skip
    seen = [end_of(process) for process in lost]
    assert seen[0][:2] == (7, "network")
    assert "no route to" in seen[0][2]
    assert seen[1][:2] == (7, "network")
    assert "no route to relay.lab" in seen[1][2]
    assert seen[2][:2] == (7, "network")
    assert "no network interface is up" in seen[2][2]


@pytest.mark.parametrize("how", ["tcp reset", "icmpx admin-prohibited"])
def test_a_firewall_that_rejects(rig: NetworkRig, how: str) -> None:
    rig.b.nft(WALL.format(how=how, device=DEVICE))
    both = rig.bind_in_vain("--timeout", "2", *peers(rig))
    one = rig.bind_in_vain("--timeout", "2", *peers(rig)[:2])
    code, error, message = end_of(both)
    assert (code, error) == (13, "blocked")
    assert "firewall" in message
    assert "wss on port 443" in message
    code, error, message = end_of(one)
    assert (code, error) == (5, "connect"), "one peer may simply be down"
    assert rig.a.ip in message


def test_a_firewall_that_drops(rig: NetworkRig) -> None:
    rig.lan.cut()
    both = rig.bind_in_vain("--timeout", "3", *peers(rig))
    one = rig.bind_in_vain("--timeout", "3", *peers(rig)[:2])
    code, error, message = end_of(both)
    assert (code, error) == (13, "blocked")
    assert message.startswith("nothing answers")
    assert "wss on port 443" in message
    code, error, message = end_of(one)
    assert (code, error) == (5, "connect")
    assert "does not answer" in message


def test_rules_of_this_machine(rig: NetworkRig) -> None:
    for ip in (rig.a.ip, rig.c.ip):
        rig.b.run(["ip", "route", "add", "prohibit", f"{ip}/32"])
    code, error, message = end_of(rig.bind_in_vain("--timeout", "2", *peers(rig)[:2]))
    assert (code, error) == (13, "blocked")
    assert "this machine does not allow" in message


def test_an_exposer_tells_a_cause_once_and_the_next_one_too(rig: NetworkRig) -> None:
    rig.a.nft(WALL.format(how="tcp reset", device=DEVICE))
    relays = [f"/ip4/{host.ip}/tcp/4001/p2p/{peer}" for host, peer in ((rig.b, ONE), (rig.c, TWO))]
    exposer = rig.expose("--port", "9", "--relay", *relays, "--no-public", ready=False)
    exposer.wait("warned", count=2)  # the first is that nothing answers on port 9
    exposer.wait("published", medium="relay", ok=False, count=6)  # three rounds of two
    (warning,) = rig.warnings(exposer, "")[1:]
    assert "everything refuses" in warning
    rig.a.run(["ip", "route", "flush", "dev", DEVICE])
    exposer.wait("warned", count=3)
    assert "no route" in rig.warnings(exposer, "")[2]


@pytest.mark.timeout(120)
def test_a_relay_that_was_used_before_is_used_without_the_dns(rig: NetworkRig) -> None:
    rig.serve_names()
    conf = f"nameserver {rig.c.ip}"
    a, b = rig.with_names(rig.a, conf), rig.with_names(rig.b, conf)
    relay = rig.pt("relay", "--json", "--listen", f"/ip4/{rig.c.ip}/tcp/4001", host=rig.c, home="c")
    peer = relay.wait("relay_ready")["peer_id"]
    given = ("--relay", f"/dns4/relay.lab/tcp/4001/p2p/{peer}", *QUIET)
    port = rig.echo_service()
    rig.lan.cut(rig.a, rig.b)  # there is no other way than through the relay

    def tunnel() -> tuple[PtProcess, PtProcess]:
        exposer = rig.expose("--port", str(port), *given, host=a)
        exposer.wait("published", medium="relay", ok=True)
        binder = rig.bind("--port", "0", *given, host=b)
        with rig.dial(local_port(binder)) as client:
            ask_echo(client)
        for process in (binder, exposer):
            process.signal(signal.SIGTERM)
            assert process.exit_code() == 143
        return exposer, binder

    for process in tunnel():
        assert not rig.warnings(process, "DNS")
    rig.c.nft(SILENCE)
    for process in tunnel():
        (warning,) = rig.warnings(process, "DNS")
        assert warning.startswith("the DNS does not answer")
        assert "relay.lab stood for on" in warning
        assert rig.c.ip in warning
    stranger = rig.bind_in_vain(*given, "--timeout", "4", host=b, home="new")
    assert end_of(stranger)[0] == 12, "who never used it does not know its address"
