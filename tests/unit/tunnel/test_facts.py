from __future__ import annotations

import pytest

from pt.tunnel import events as ev
from pt.tunnel.config import ExposeConfig, Service
from pt.wire.multiaddr import Multiaddr

RELAY = "/ip4/192.0.2.1/tcp/4001/p2p/12D3KooWBtg3aaRMjxwedh83aGiUkwSxDwUZkzuJcfaqUmo7R3pq"


def test_fields_in_order_with_defaults() -> None:
    assert ev.BoundPort.fields == ("local", "remote", "host")
    port = ev.BoundPort(local=1, remote=2)
    assert (port.local, port.remote, port.host) == (1, 2, "127.0.0.1")
    assert ev.BoundPort(local=1, remote=2, host="::1").host == "::1"


@pytest.mark.parametrize(
    "facts", [{}, {"local": 1}, {"local": 1, "remote": 2, "extra": 3}, {"local": 1, "extra": 2}]
)
def test_missing_or_unknown_fields(facts: dict) -> None:
    with pytest.raises(TypeError, match=r"extra|local|remote"):
        ev.BoundPort(**facts)


def test_positional_fields_are_refused() -> None:
    with pytest.raises(TypeError):
        ev.Warned("message")  # type: ignore[misc]


def test_frozen() -> None:
    event = ev.Warned(message="a")
    with pytest.raises(AttributeError):
        event.message = "b"  # type: ignore[misc]


def test_compared_by_class_and_content() -> None:
    assert ev.Warned(message="a") == ev.Warned(message="a")
    assert ev.Warned(message="a") != ev.Warned(message="b")
    assert ev.Warned(message="a") != ev.Stopped(reason="a")
    assert ev.BoundPort(local=1, remote=2) == ev.BoundPort(local=1, remote=2, host="127.0.0.1")


def test_repr_names_everything_but_secrets() -> None:
    assert repr(ev.Warned(message="a")) == "Warned(message='a')"
    config = ExposeConfig(
        name="some-name",
        services=(Service(port=1),),
        relays=(Multiaddr.parse(RELAY),),
        relay_secret="not-to-be-logged",
    )
    assert config.relay_secret == "not-to-be-logged"
    assert RELAY in repr(config)
    assert "not-to-be-logged" not in repr(config)


def test_hashable() -> None:
    assert len({ev.Warned(message="a"), ev.Warned(message="a"), ev.Warned(message="b")}) == 2
