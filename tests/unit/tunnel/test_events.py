from __future__ import annotations

from pt.tunnel import events as ev


def test_everything_public_is_an_event_or_a_part_of_one() -> None:
    parts = {"Event", "BoundPort"}
    for name in ev.__all__:
        assert name in parts or issubclass(getattr(ev, name), ev.Event)


def test_facts_that_may_be_unknown_have_defaults() -> None:
    assert ev.Ready() == ev.Ready(peer_id=None, addresses=(), bind_command=None, ports=())
    assert ev.Rejected(reason="x").address is None
