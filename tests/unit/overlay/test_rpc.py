"""Requests and replies: who is believed, what is sent again, what is given up."""

from __future__ import annotations

import itertools

import pytest

from pt.overlay.adapter import Node
from pt.overlay.messages import Reply, encode_reply
from pt.overlay.rpc import MAX_OUTSTANDING, SLOW, TIMEOUT, Rpc

THEM, OTHER = ("10.0.0.2", 4001), ("10.0.0.3", 4001)
ID = b"i" * 32
NODE = Node(ID, *THEM)


class End:
    def __init__(self) -> None:
        numbers = itertools.count()
        self.sent: list[tuple[bytes, object]] = []
        self.got: list[Reply | None] = []
        self.rpc = Rpc(
            b"",
            b"u" * 32,
            lambda data, addr: self.sent.append((data, addr)),
            lambda length: next(numbers).to_bytes(length, "big"),
        )

    def ask(self, to=NODE, now: float = 0.0, **options) -> bytes:
        self.rpc.ask(to, "ping", done=self.got.append, now=now, **options)
        return self.sent[-1][0][1:21]


def test_a_reply_goes_to_whoever_waits_for_it():
    end = End()
    request_id = end.ask()
    end.rpc.receive_datagram(encode_reply(request_id, ID, b"t" * 8, b""), THEM, 0.1)
    assert [one is not None for one in end.got] == [True]
    assert ID in end.rpc.table
    assert end.rpc.has_token(THEM, 1.0)
    assert end.rpc.next_timeout() is None


def test_spoofed_replayed_and_unasked_replies_are_dropped():
    end = End()
    request_id = end.ask()
    reply = encode_reply(request_id, ID, b"", b"")
    end.rpc.receive_datagram(reply, OTHER, 0.1)
    end.rpc.receive_datagram(encode_reply(bytes(19) + b"x", ID, b"", b""), THEM, 0.1)
    assert end.got == []
    end.rpc.receive_datagram(reply, THEM, 0.2)
    end.rpc.receive_datagram(reply, THEM, 0.3)
    assert len(end.got) == 1
    assert end.rpc.counts["dropped: unsolicited"] == 3


@pytest.mark.parametrize("sender", [b"x" * 32, b""])
def test_a_reply_of_another_id_is_a_failure(sender):
    end = End()
    request_id = end.ask()
    end.rpc.receive_datagram(encode_reply(request_id, sender, b"", b""), THEM, 0.1)
    assert end.got == [None]
    assert len(end.rpc.table) == 0
    assert end.rpc.counts["dropped: bad reply"] == 1


def test_a_request_is_sent_again_once_and_then_given_up():
    end, slow = End(), []
    end.ask(slow=lambda: slow.append(1))
    assert end.rpc.next_timeout() == SLOW
    end.rpc.handle_timeout(SLOW)
    assert len(end.sent) == 2
    assert end.sent[0] == end.sent[1]
    assert slow == [1]
    assert end.rpc.next_timeout() == TIMEOUT
    end.rpc.handle_timeout(TIMEOUT)
    assert end.got == [None]
    assert end.rpc.next_timeout() is None


def test_requests_under_way_are_bounded():
    end = End()
    for _ in range(MAX_OUTSTANDING + 5):
        end.ask()
    assert len(end.rpc) == MAX_OUTSTANDING
    assert end.got == [None] * 5


def test_garbage_is_counted():
    end = End()
    for data in (b"", b"x" * 5000, b"\x00" * 50):
        assert end.rpc.receive_datagram(data, THEM, 0.0) is None
    assert end.rpc.counts["dropped: malformed"] == 3


def test_close_fails_all_and_lets_nobody_ask():
    end = End()
    end.ask()
    end.rpc.close()
    end.ask()
    assert end.got == [None, None]
    assert len(end.sent) == 1
