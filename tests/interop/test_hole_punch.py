"""libp2p's hole punch interop contract: what its environment means, and all of it once."""

from __future__ import annotations

import shutil

import pytest

from interop import hole_punch
from interop.hole_punch import environment
from interop.hole_punch_test import ContractError, Job, read_job, told
from pt.lab import unavailable
from tests.interop.test_matrix import CI, buildable

REDIS = "11.0.0.1:6379"


@pytest.mark.parametrize("transport", ["tcp", "quic-v1"])
@pytest.mark.parametrize("part", ["listener", "dialer"])
@pytest.mark.parametrize("modern", [True, False])
def test_both_spellings_say_the_same(part: str, transport: str, modern: bool) -> None:
    quic = transport != "tcp"
    older = "RELAY_QUIC_ADDRESS" if quic else "RELAY_TCP_ADDRESS"
    key = hole_punch.KEY
    assert read_job(environment(part, transport, REDIS, modern=modern)) == Job(
        part=part,
        modern=modern,
        quic=quic,
        redis_host="11.0.0.1",
        redis_port=6379,
        relay_key=f"{key}_relay_multiaddr" if modern else older,
        peer_key=f"{key}_listener_peer_id" if modern else "LISTEN_CLIENT_PEER_ID",
        ip="0.0.0.0",
    )


def test_the_relay_is_told_where_to_listen() -> None:
    job = read_job({**environment("relay", "tcp", REDIS), "RELAY_IP": "11.0.0.68"})
    assert (job.part, job.ip) == ("relay", "11.0.0.68")


@pytest.mark.parametrize(
    ("modern", "changes", "says"),
    [
        (True, {"TRANSPORT": "ws"}, "TRANSPORT='ws'"),
        (True, {"SECURE_CHANNEL": "tls"}, "SECURE_CHANNEL='tls'"),
        (True, {"MUXER": "mplex"}, "MUXER='mplex'"),
        (True, {"TEST_KEY": ""}, "TEST_KEY is missing"),
        (True, {"REDIS_ADDR": "here"}, "HOST:PORT"),
        (True, {"IS_DIALER": "perhaps"}, "IS_DIALER"),
        (False, {"MODE": "relay"}, "MODE='relay'"),
    ],
)
def test_what_we_do_not_have_is_named(modern: bool, changes: dict[str, str], says: str) -> None:
    with pytest.raises(ContractError, match=says):
        read_job({**environment("dialer", "tcp", REDIS, modern=modern), **changes})


def test_what_the_dialer_says_is_read_in_both_forms() -> None:
    assert hole_punch.read(told((44.4, 1.1), modern=True), modern=True).startswith("direct + 1 RTT")
    assert hole_punch.read(told((44.4, 1.1), modern=False), modern=False) == "ping 1 ms"
    with pytest.raises(ValueError, match="no longer"):
        hole_punch.read(told((1.0, 1.1), modern=True), modern=True)


@pytest.mark.netns
@pytest.mark.interop
@pytest.mark.timeout(900)  # a cold build of the Go peer
def test_every_pair_passes(capsys: pytest.CaptureFixture[str]) -> None:
    if not CI:
        if reason := unavailable():
            pytest.skip(reason)
        if "go" not in buildable():
            pytest.skip("no go toolchain to build the Go peer with")
        if not shutil.which("redis-server"):
            pytest.skip("no redis-server")
    assert hole_punch.main(["--no-write"]) == 0, capsys.readouterr().out
