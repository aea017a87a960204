from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pt.websocket.adapter import (
    MAX_FRAME,
    MAX_HANDSHAKE,
    MAX_SENT_FRAME,
    WebSocket,
    WebSocketError,
)

# RFC 6455 §1.3
REQUEST = (
    b"GET /chat HTTP/1.1\r\n"
    b"Host: server.example.com\r\n"
    b"Upgrade: websocket\r\n"
    b"Connection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
    b"Origin: http://example.com\r\n"
    b"Sec-WebSocket-Protocol: chat, superchat\r\n"
    b"Sec-WebSocket-Version: 13\r\n\r\n"
)
# RFC 6455 §5.7
MASK = b"\x37\xfa\x21\x3d"
MASKED_TEXT_HELLO = b"\x81\x85" + MASK + b"\x7f\x9f\x4d\x51\x58"
MASKED_PONG_HELLO = b"\x8a\x85" + MASK + b"\x7f\x9f\x4d\x51\x58"
PING_HELLO = b"\x89\x05Hello"
PONG_HELLO = b"\x8a\x05Hello"
CLOSE_1000 = b"\x88\x02\x03\xe8"


def masked(payload: bytes, opcode: int = 2, *, fin: bool = True) -> bytes:
    """A client's frame."""
    if len(payload) < 126:
        length = bytes([0x80 | len(payload)])
    elif len(payload) < 1 << 16:
        length = b"\xfe" + len(payload).to_bytes(2, "big")
    else:
        length = b"\xff" + len(payload).to_bytes(8, "big")
    body = bytes(a ^ b for a, b in zip(payload, itertools.cycle(MASK)))
    return bytes([opcode | (0x80 if fin else 0)]) + length + MASK + body


def server() -> WebSocket:
    end = WebSocket.server()
    assert end.receive_data(REQUEST) == []
    assert end.opened
    assert b"".join(end.data_to_send()).startswith(b"HTTP/1.1 101 ")
    return end


def pair() -> tuple[WebSocket, WebSocket]:
    client, end = WebSocket.client("127.0.0.1", 80, secure=False), WebSocket.server()
    end.receive_data(b"".join(client.data_to_send()))
    client.receive_data(b"".join(end.data_to_send()))
    assert client.opened and end.opened
    return client, end


def sent(end: WebSocket) -> bytes:
    return b"".join(end.data_to_send())


# --- the upgrade -------------------------------------------------------------------------------


def test_upgrade_of_the_rfc():
    end = WebSocket.server()
    for i in range(len(REQUEST)):
        assert not end.opened
        assert end.receive_data(REQUEST[i : i + 1]) == []
    assert end.opened
    answer = sent(end)
    assert answer.startswith(b"HTTP/1.1 101 Switching Protocols\r\n")
    assert b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n" in answer
    assert b"Sec-WebSocket-Protocol" not in answer
    assert b"Sec-WebSocket-Extensions" not in answer


def test_compression_is_declined():
    end = WebSocket.server()
    offer = b"Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n\r\n"
    end.receive_data(REQUEST[:-2] + offer)
    assert end.opened
    assert b"Extensions" not in sent(end)


@pytest.mark.parametrize(
    ("host", "port", "secure", "named"),
    [
        ("relay.example", 4001, False, b"relay.example:4001"),
        ("relay.example", 80, False, b"relay.example"),
        ("relay.example", 443, True, b"relay.example"),
        ("fd00::1", 4001, False, b"[fd00::1]:4001"),
    ],
)
def test_request(host, port, secure, named):
    lines = sent(WebSocket.client(host, port, secure=secure)).split(b"\r\n")
    assert lines[0] == b"GET / HTTP/1.1"
    assert b"Host: " + named in lines
    assert b"Upgrade: websocket" in lines
    assert not [line for line in lines if line.startswith((b"Sec-WebSocket-Ext", b"Origin"))]


def test_frames_that_come_with_the_request_follow_the_answer():
    end = WebSocket.server()
    assert end.receive_data(REQUEST + masked(b"", 9) + masked(b"early")) == [b"early"]
    assert sent(end).index(b"HTTP/1.1 101") == 0


def test_frames_that_come_with_the_answer():
    client, end = WebSocket.client("127.0.0.1", 80, secure=False), WebSocket.server()
    end.receive_data(sent(client))
    end.send(b"early")
    assert client.receive_data(sent(end)) == [b"early"]


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"426"),
        (REQUEST.replace(b"Version: 13", b"Version: 8"), b"400"),
        (REQUEST.replace(b"dGhlIHNhbXBsZSBub25jZQ==", b"short"), b"400"),
        (REQUEST.replace(b"GET", b"PUT"), b"405"),
    ],
)
def test_others_get_an_http_answer(request_, status):
    end = WebSocket.server()
    with pytest.raises(WebSocketError, match="not a WebSocket upgrade"):
        end.receive_data(request_)
    assert end.over
    answer = sent(end)
    assert answer.startswith(b"HTTP/1.1 " + status)
    assert len(answer) < 1024
    assert end.receive_data(b"more") == []


def test_426_names_the_upgrade():
    end = WebSocket.server()
    with pytest.raises(WebSocketError):
        end.receive_data(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    assert b"\r\nUpgrade: websocket\r\n" in sent(end)


@pytest.mark.parametrize(
    "request_", [b"GARBAGE\r\n\r\n", b"GET / HTTP/9\r\n\r\n", b"G\0\xff\r\n\r\n"]
)
def test_what_is_not_even_http_gets_none(request_):
    end = WebSocket.server()
    with pytest.raises(WebSocketError):
        end.receive_data(request_)
    assert end.over
    assert sent(end) == b""


def test_request_without_end_is_bounded():
    end = WebSocket.server()
    end.receive_data(b"GET / HTTP/1.1\r\n")
    with pytest.raises(WebSocketError, match="more than"):
        for _ in range(MAX_HANDSHAKE // 100 + 1):
            end.receive_data(b"X: " + b"y" * 95 + b"\r\n")
    assert sent(end).startswith(b"HTTP/1.1 431 ")


def test_request_of_the_longest_length_passes():
    end = WebSocket.server()
    filler = b"".join(b"X-%d: %s\r\n" % (i, b"y" * 4000) for i in range(4))
    request = REQUEST[:-2] + filler
    request += b"Z: " + b"z" * (MAX_HANDSHAKE - len(request) - 5) + b"\r\n\r\n"
    end.receive_data(request)
    assert end.opened


def test_answer_without_end_is_bounded():
    client = WebSocket.client("127.0.0.1", 80, secure=False)
    client.receive_data(b"HTTP/1.1 101 x\r\n")
    with pytest.raises(WebSocketError, match="answers with over"):
        for _ in range(MAX_HANDSHAKE // 1000 + 2):
            client.receive_data(b"X: " + b"y" * 995 + b"\r\n")


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (b"HTTP/1.1 404 Not Found\r\nContent-Length: 2\r\n\r\nno", "HTTP status 404"),
        (b"HTTP/1.1 101 Hi\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n", "Accept"),
        (b"\x13/multistream/1.0.0\n\r\n\r\n", "no WebSocket there"),
        (b"SSH-2.0-OpenSSH_9.2p1\r\n", "no WebSocket there"),
    ],
)
def test_servers_that_are_none(answer, why):
    client = WebSocket.client("127.0.0.1", 80, secure=False)
    with pytest.raises(WebSocketError, match=why):
        client.receive_data(answer)
    assert not client.opened
    assert client.over


# --- payload -----------------------------------------------------------------------------------


def test_payload_of_a_server_is_not_masked():
    end = server()
    end.send(b"x" * 256)
    assert sent(end) == b"\x82\x7e\x01\x00" + b"x" * 256


def test_long_payload_is_cut():
    client, end = pair()
    data = bytes(range(256)) * 1024
    client.send(data)
    frames = client.data_to_send()
    assert len(frames) == len(data) // MAX_SENT_FRAME
    assert b"".join(end.receive_data(b"".join(frames))) == data


def test_fragments_are_handed_on_as_they_come():
    end = server()
    assert end.receive_data(masked(b"one", 2, fin=False)) == [b"one"]
    assert end.receive_data(masked(b"ping", 9)) == []
    assert end.receive_data(masked(b"", 0, fin=False)) == []
    assert end.receive_data(masked(b"two", 0)) == [b"two"]
    assert end.receive_data(masked(b"three")) == [b"three"]


def test_many_fragments_of_one_message_are_no_matter_of_size():
    end = server()
    total = len(end.receive_data(masked(bytes(MAX_FRAME), 2, fin=False))[0])
    for _ in range(3):
        total += len(end.receive_data(masked(bytes(MAX_FRAME), 0, fin=False))[0])
    assert total == 4 * MAX_FRAME


def test_oversize_frame_is_refused_at_its_header():
    end = server()
    with pytest.raises(WebSocketError, match="broken"):
        end.receive_data(b"\x82\xff" + (MAX_FRAME + 1).to_bytes(8, "big"))
    assert sent(end)[2:4] == (1009).to_bytes(2, "big")
    assert end.ended and end.over


@pytest.mark.parametrize(
    ("frame", "code"),
    [
        (MASKED_TEXT_HELLO, 1003),
        (masked(b"x", 0), 1002),  # a continuation of nothing
        (b"\x82\x01x", 1002),  # not masked
        (b"\xc2\x81" + MASK + b"x", 1002),  # a bit of an extension that was not agreed on
        (masked(b"x", 3), 1002),  # an unknown kind
        (masked(b"x" * 126, 9), 1002),  # a long control frame
        (masked(b"", 9, fin=False), 1002),  # a control frame in parts
        (masked(b"\x03", 8), 1002),  # half a code
    ],
)
def test_broken_rules(frame, code):
    end = server()
    with pytest.raises(WebSocketError):
        end.receive_data(frame)
    assert sent(end)[2:4] == code.to_bytes(2, "big")
    assert end.ended and end.over
    assert end.receive_data(masked(b"later")) == []
    end.send(b"dropped")
    end.close()
    assert sent(end) == b""


def test_client_does_not_take_masked_frames():
    client, _ = pair()
    with pytest.raises(WebSocketError):
        client.receive_data(masked(b"x"))
    assert client.ended
    assert not client.over  # the server closes first


# --- pings -------------------------------------------------------------------------------------


def test_ping_of_the_rfc():
    end = server()
    end.receive_data(masked(b"Hello", 9))
    assert sent(end) == PONG_HELLO


def test_client_answers_a_ping_masked():
    client, end = pair()
    client.receive_data(PING_HELLO)
    assert end.receive_data(sent(client)) == []
    end.receive_data(MASKED_PONG_HELLO)  # one that nobody asked for
    assert sent(end) == b""


def test_without_room_only_the_last_ping_is_answered():
    end = server()
    for i in range(1000):
        end.receive_data(masked(b"%d" % i, 9))
        assert end.data_to_send(room=False) == []
    assert end.data_to_send() == [b"\x8a\x03999"]
    assert end.data_to_send() == []


def test_answer_to_a_ping_goes_along_with_payload():
    end = server()
    end.receive_data(masked(b"", 9))
    end.send(b"x")
    assert end.data_to_send(room=False) == [b"\x82\x01x", b"\x8a\x00"]


# --- the end -----------------------------------------------------------------------------------


def test_close_of_ours_is_answered():
    client, end = pair()
    end.send(b"last")
    end.close()
    end.close()
    end.send(b"dropped")
    assert not end.ended and not end.over
    client.send(b"on its way")
    underway = sent(client)
    assert client.receive_data(sent(end)) == [b"last"]
    assert client.ended and not client.over
    client.send(b"dropped")
    assert end.receive_data(underway + sent(client)) == [b"on its way"]
    assert end.ended and end.over
    assert sent(end) == b""
    client.receive_eof()
    assert client.over


def test_close_of_a_client_is_answered():
    end = server()
    assert end.receive_data(masked(b"last") + masked(b"\x03\xe8", 8)) == [b"last"]
    assert end.ended and end.over
    assert sent(end) == CLOSE_1000
    assert end.receive_data(b"more") == []


def test_no_pong_after_the_close():
    end = server()
    end.receive_data(masked(b"", 9) + masked(b"\x03\xe8", 8))
    assert sent(end) == CLOSE_1000


def test_network_ends_without_a_close():
    end = server()
    end.receive_data(masked(b"half")[:3])
    end.receive_eof()
    end.receive_eof()
    assert end.ended and end.over
    assert sent(end) == b""


@pytest.mark.parametrize("cut", [0, 10, len(REQUEST) - 1])
def test_network_ends_within_the_upgrade(cut):
    end = WebSocket.server()
    end.receive_data(REQUEST[:cut])
    end.receive_eof()
    assert end.ended and end.over and not end.opened
    client = WebSocket.client("127.0.0.1", 80, secure=False)
    client.receive_eof()
    assert client.ended and client.over and not client.opened


# --- whatever comes ----------------------------------------------------------------------------


@given(st.lists(st.binary(max_size=300), max_size=8), st.integers(1, 50))
def test_bytes_arrive_however_they_are_cut(messages, step):
    for sender, receiver in (pair(), pair()[::-1]):
        for message in messages:
            sender.send(message)
        wire = sent(sender)
        got = b"".join(
            bytes(part)
            for i in range(0, len(wire), step)
            for part in receiver.receive_data(wire[i : i + step])
        )
        assert got == b"".join(messages)


@given(st.lists(st.binary(max_size=64), max_size=8), st.booleans())
def test_noise_raises_nothing_else(pieces, upgraded):
    ends = pair() if upgraded else (WebSocket.client("h", 1, secure=True), WebSocket.server())
    for end in ends:
        for piece in pieces:
            try:
                end.receive_data(piece)
            except WebSocketError:
                assert end.ended
            assert len(sent(end)) < 4096
        end.receive_eof()
        assert end.ended and end.over


@given(st.binary(max_size=200))
def test_noise_in_a_request(noise):
    end = WebSocket.server()
    try:
        end.receive_data(b"GET " + noise + b"\r\n\r\n")
    except WebSocketError:
        assert end.over
