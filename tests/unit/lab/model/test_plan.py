"""Plans: who gets which address."""

from __future__ import annotations

from ipaddress import ip_address

import pytest

from pt.lab.model.plan import make_plan
from pt.lab.model.spec import SpecError


def hosts(plan) -> dict[str, tuple[str, str]]:
    return {host.name: (host.ip, host.ip6) for host in plan.hosts}


def test_public_hosts_have_two_global_addresses_of_each_family() -> None:
    plan = make_plan({}, public=2)
    for host in plan.hosts:
        assert len(host.addresses) == 4
        assert all(ip_address(each).is_global for each in host.addresses)
    assert hosts(plan)["s1"] == ("11.1.0.1", "2a00:6000:1::1")


def test_sides() -> None:
    plan = make_plan({"a": "eim", "b": "fw,v6=apdf", "c": "public", "d": "v6"}, lan=2)
    found = hosts(plan)
    assert found["a"] == ("192.168.1.10", "")
    assert found["a2"] == ("192.168.1.11", "")
    assert found["b"] == ("11.101.0.10", "2a00:6000:65::a")
    assert found["c2"] == ("11.102.0.11", "2a00:6000:66::b")
    assert found["d"] == ("", "2a00:6000:67::a")
    assert [(nat.name, nat.family) for nat in plan.nats] == [
        ("a", 4),
        ("b", 4),
        ("b/v6", 6),
        ("d/v6", 6),
    ]


def test_equal_subnets_give_one_address_to_different_hosts() -> None:
    found = hosts(make_plan({"a": "eim", "b": "eim"}, lan=2, overlap=True))
    assert found["a"] == found["b2"]
    assert found["a2"] == found["b"]


def test_chains_and_a_shared_carrier() -> None:
    plan = make_plan({"a": "eim+symmetric", "b": "eim"}, cgn="eim,pool=2")
    assert [(nat.name, nat.inside, nat.at.network) for nat in plan.nats] == [
        ("cgn", "cgn", "core"),
        ("a", "a", "a.2"),
        ("a.2", "a.2", "cgn"),
        ("b", "b", "cgn"),
    ]
    assert plan.nats[0].addresses == ("11.99.0.1", "11.99.0.2")
    addresses = [each for nat in plan.nats for each in nat.addresses]
    assert len(set(addresses)) == len(addresses)


def test_links_have_names() -> None:
    plan = make_plan({"a": "eim"}, link="delay=10", links={"s1": "delay=1"})
    assert plan.links["a"].shape.delay == 0.01
    assert plan.links["s1"].shape.delay == 0.001
    assert plan.links["lan"].shape.transparent


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"sides": {"s": "eim"}}, "not s"),
        ({"sides": {"ab": "eim"}}, "one lower-case letter"),
        ({"sides": {"a": "none"}}, "needs v6="),
        ({"sides": {"a": "public,v6=apdf"}}, "fw is what"),
        ({"sides": {}, "lan": 0}, "at most"),
        ({"sides": {}, "cgn": "fw"}, "shared carrier"),
        ({"sides": {}, "links": {"x": ""}}, "cgn, lan, s1, s2"),
    ],
)
def test_what_is_wrong_is_named(wrong, named) -> None:
    with pytest.raises(SpecError) as error:
        make_plan(**wrong)
    assert named in str(error.value)
