"""Snippet for tests/unit/yamux: SYNs out of order are accepted, an id used twice is not."""

import pytest

from pt.yamux.session import Session, YamuxError

HEAD = "000100010000000{}00000000"  # WINDOW_UPDATE|SYN of stream {}


def responder() -> Session:
    return Session(initiator=False, clock=lambda: 0.0, on_stream=lambda stream: None)


def syn(session: Session, stream_id: int) -> None:
    session.receive(memoryview(bytes.fromhex(HEAD.format(stream_id))))


def test_syns_out_of_order_as_go_sends_them() -> None:
    session = responder()
    for stream_id in (5, 1, 7, 3):
        syn(session, stream_id)
    assert sorted(session.streams) == [1, 3, 5, 7]


@pytest.mark.parametrize("again", [1, 3, 5])
def test_an_id_is_used_once(again: int) -> None:
    session = responder()
    for stream_id in (5, 1, 3):
        syn(session, stream_id)
        session.streams[stream_id].reset()
    with pytest.raises(YamuxError):
        syn(session, again)
