"""`pt nat` at a router with miniupnpd: PCP, NAT-PMP and UPnP-IGD of a real gateway."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from pt.lab.nat import Internet, Site
from tests.e2e.harness import PT, need
from tests.e2e.igd import Gateway

pytestmark = [pytest.mark.netns, pytest.mark.interop, pytest.mark.timeout(60)]


def test_all_three_services_are_told_and_nothing_is_mapped(tmp_path: Path) -> None:
    need("miniupnpd")
    env = {name: value for name, value in os.environ.items() if not name.startswith("PT_")}
    with Internet(public=["s"], sites={"a": Site()}) as net:
        gateway = Gateway(net, "a", tmp_path)
        address = f"/ip4/{net['s'].ip}/tcp/4001"
        argv = [str(PT), "relay", "--json", "--home", str(tmp_path / "home"), "--listen", address]
        relay = net["s"].popen(argv, stdout=subprocess.PIPE, env=env)
        assert relay.stdout is not None
        assert json.loads(relay.stdout.readline())["event"] == "relay_ready"
        host = net["a"]
        done = host.run([str(PT), "nat", "--json", "--relay", address], env=env)
        told = json.loads(done.stdout)
        found = {each["service"]: each for each in told["gateways"]}
        assert {name for name, each in found.items() if each["ok"]} == {"PCP", "NAT-PMP", "UPnP"}
        for name in ("NAT-PMP", "UPnP"):
            assert found[name]["outside"] == "same"
        assert "dnat" not in gateway.rules
