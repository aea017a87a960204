from __future__ import annotations

from functools import partial

import pytest

from pt.errors import UsageError
from pt.tunnel.config import (
    MAX_SERVICES,
    BindConfig,
    ExposeConfig,
    Forward,
    Service,
    default_listen,
)
from pt.wire.multiaddr import Multiaddr

SSH = Service(port=22)
# Values only: nothing here starts a node.
exposing = partial(ExposeConfig, name="x")
binding = partial(BindConfig, name="x")
RELAY = "/ip4/192.0.2.1/tcp/4001/p2p/12D3KooWBtg3aaRMjxwedh83aGiUkwSxDwUZkzuJcfaqUmo7R3pq"


def test_a_service_leads_to_its_own_port_unless_told() -> None:
    assert SSH.target == ("127.0.0.1", 22)
    assert Service(port=22, host="::1", target_port=23).target == ("::1", 23)


@pytest.mark.parametrize(
    "facts",
    [
        {"port": 0},
        {"port": -1},
        {"port": 65536},
        {"port": 22, "target_port": 0},
        {"port": 22, "target_port": 70000},
        {"port": 22, "host": ""},
    ],
)
def test_bad_services(facts: dict) -> None:
    with pytest.raises(UsageError):
        Service(**facts)


def test_listening_everywhere_is_the_default() -> None:
    config = exposing(services=(SSH,))
    assert config.listen == default_listen()
    assert [str(each) for each in config.listen] == [
        "/ip4/0.0.0.0/tcp/0",
        "/ip6/::/tcp/0",
        "/ip4/0.0.0.0/udp/0/quic-v1",
        "/ip6/::/udp/0/quic-v1",
    ]


@pytest.mark.parametrize(
    "services", [(), (SSH, SSH), tuple(Service(port=n + 1) for n in range(MAX_SERVICES + 1))]
)
def test_bad_sets_of_services(services: tuple) -> None:
    with pytest.raises(UsageError):
        exposing(services=services)


@pytest.mark.parametrize("name", ["", " ", "a b", "x\n", "y" * 300, "zero\0"])
@pytest.mark.parametrize("make", [ExposeConfig, BindConfig])
def test_bad_names(name: str, make: type) -> None:
    extra = {"services": (SSH,)} if make is ExposeConfig else {}
    with pytest.raises(UsageError):
        make(name=name, **extra)


def test_names_are_brought_to_one_form() -> None:
    assert binding(name="cafe\u0301").name == "caf\u00e9"


def test_an_open_name_is_passed_as_typed() -> None:
    assert binding(name="any thing~", open=True).name == "any thing~"
    with pytest.raises(UsageError):
        binding(name=" ", open=True)


@pytest.mark.parametrize("facts", [{"local_port": -1}, {"local_port": 65536},
                                   {"local_port": 1, "remote_port": 65536}])  # fmt: skip
def test_bad_forwards(facts: dict) -> None:
    with pytest.raises(UsageError):
        Forward(**facts)


def test_a_local_port_is_taken_once_but_0_as_often_as_wanted() -> None:
    free = Forward(local_port=0)
    binding(forwards=(free, free, Forward(local_port=5)))
    binding(forwards=(Forward(local_port=5), Forward(local_port=5, host="::1")))
    with pytest.raises(UsageError, match="5"):
        binding(forwards=(Forward(local_port=5), Forward(local_port=5)))


@pytest.mark.parametrize("timeout", [0, -1, float("nan")])
def test_bad_timeouts(timeout: float) -> None:
    with pytest.raises(UsageError):
        binding(timeout=timeout)


def test_the_relays_secret_is_not_shown_when_the_config_is() -> None:
    config = exposing(
        services=(SSH,),
        relays=(Multiaddr.parse(RELAY),),
        relay_secret="not-to-be-logged",
    )
    assert RELAY in repr(config)
    assert "not-to-be-logged" not in repr(config)
