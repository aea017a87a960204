"""What the kernel refuses is named by what was asked for."""

from __future__ import annotations

import os

import pytest

from pt.lab.lab import Lab
from pt.lab.system import KernelError, Netlink, members, namespace_link, open_tun

pytestmark = pytest.mark.netns


def test_refusals_say_what_was_wanted() -> None:
    with Lab(a="eim", public=0) as lab, lab["a"].inside(), Netlink() as net:
        net.address(1, "192.0.2.1", 32)
        net.commit()
        net.address(1, "192.0.2.2", 32)
        net.address(1, "192.0.2.1", 32)
        with pytest.raises(KernelError, match=r"address 192\.0\.2\.1: File exists"):
            net.commit()
        net.commit()  # nothing is left over
        net.route(1, "198.51.100.0", 24, "203.0.113.1")
        with pytest.raises(KernelError, match=r"route 198\.51\.100\.0/24: "):
            net.commit()
        with pytest.raises(KernelError, match="cannot make the TUN device"):
            open_tun("eth0")


def test_members_are_those_of_the_namespace() -> None:
    with Lab(a="eim", b="eim", public=0) as lab:
        links = {name: namespace_link(lab[name].netns) for name in "ab"}
        child = lab["a"].popen(["sleep", "60"])
        assert links["a"] != links["b"]
        while child.pid not in members([links["a"]]):  # until nsenter has moved it there
            assert child.poll() is None
        assert members([links["b"]]) == []
        assert os.getpid() not in members(links.values())
