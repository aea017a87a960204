"""`pt relay` as an AutoNAT server, asked from behind the laboratory's NATs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pt.lab.lab import Lab
from tests.e2e.harness import PT

pytestmark = pytest.mark.netns


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Lab, dict[str, str]]]:
    """The laboratory, and the relay's addresses by transport."""
    home = tmp_path_factory.mktemp("relay")
    with Lab(a="eim-eif", b="public", link="delay=1") as lab:
        ip = lab["s1"].ip
        relay = lab["s1"].popen(
            [
                *(str(PT), "relay", "--json", "--no-overlay", "--no-stun"),
                *("--listen", f"/ip4/{ip}/tcp/4001", f"/ip4/{ip}/udp/4001/quic-v1"),
            ],
            stdout=subprocess.PIPE,
            env={**os.environ, "PT_HOME": str(home), "PT_NO_PUBLIC": "1"},
        )
        assert relay.stdout is not None
        for line in relay.stdout:
            event = json.loads(line)
            if event["event"] == "relay_ready":
                break
        addresses = [str(each) for each in event["addresses"]]
        found = {
            "tcp": next(each for each in addresses if "/tcp/4001/p2p" in each),
            "quic-v1": next(each for each in addresses if "/quic-v1" in each),
        }
        yield lab, found


def asked(
    world: tuple[Lab, dict[str, str]], host: str, transport: str, *more: str
) -> dict[str, Any]:
    lab, relay = world
    argv = [sys.executable, "-m", "tests.e2e.autonat_peer", relay[transport], transport, *more]
    done = lab[host].run(argv, timeout=40)
    result: dict[str, Any] = json.loads(done.stdout)
    return result


@pytest.mark.parametrize("transport", ["tcp", "quic-v1"])
@pytest.mark.parametrize(
    ("host", "spec", "reachable"),
    [("a", "eim-eif", True), ("a", "eim-apdf", False), ("b", None, True)],
)
def test_whether_an_address_can_be_dialed(
    world, host: str, spec: str | None, reachable: bool, transport: str
) -> None:
    if spec is not None:
        world[0].set_nat("a", spec)
    result = asked(world, host, transport)
    assert result["address"] == result["observed"]
    assert result["reachable"] is reachable, result


def test_an_address_of_another_host_is_paid_for_and_nobody_is_fooled(world, tmp_path: Path) -> None:
    """The relay dials it, and finds somebody else or nobody there."""
    lab, _ = world
    elsewhere = f"/ip4/{lab['s2'].ip}/tcp/4100"
    result = asked(world, "b", "tcp", elsewhere)
    assert result["address"] == elsewhere
    assert result["reachable"] is False
    assert result["sent"] > 30_000


def test_private_addresses_are_not_dialed(world) -> None:
    lab, _ = world
    lab.set_nat("a", "eim-eif")
    result = asked(world, "a", "tcp", f"/ip4/{lab['a'].ip}/tcp/4100")
    assert result["address"] == result["observed"]
