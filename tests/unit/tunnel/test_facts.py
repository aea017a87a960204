from __future__ import annotations

import pytest

from pt.tunnel import events as ev
from pt.tunnel.facts import Facts


class Login(Facts):
    hidden = frozenset({"word"})

    user: str
    word: str


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
    assert repr(Login(user="ann", word="not-to-be-logged")) == "Login(user='ann')"


def test_hashable() -> None:
    assert len({ev.Warned(message="a"), ev.Warned(message="a"), ev.Warned(message="b")}) == 2
