import pytest
from hypothesis import given
from hypothesis import strategies as st

from pt.portmap.http import MAX_BODY, Exchange, Reply
from pt.portmap.mapping import PortmapError

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"


def exchange():
    made = Exchange("GET", "192.168.1.1:80", "/x")
    made.data_to_send()
    return made


def test_a_request_in_whole():
    made = Exchange("POST", "192.168.1.1:80", "/c", [("SOAPAction", '"a#b"')], b"<x/>")
    head, _, body = made.data_to_send().partition(b"\r\n\r\n")
    lines = head.split(b"\r\n")
    assert lines[0] == b"POST /c HTTP/1.1"
    assert {b"Host: 192.168.1.1:80", b"Content-Length: 4", b'SOAPAction: "a#b"'} <= set(lines)
    assert body == b"<x/>"
    assert made.data_to_send() == b""


@given(st.data())
def test_an_answer_in_any_pieces(data):
    made, left, reply = exchange(), OK, None
    while left:
        size = data.draw(st.integers(1, len(left)))
        assert reply is None
        reply, left = made.receive_data(left[:size]), left[size:]
    assert reply == Reply(200, b"hi")


def test_an_answer_to_the_end_of_the_stream():
    made = exchange()
    assert made.receive_data(b"HTTP/1.0 200 OK\r\n\r\nhello") is None
    assert made.receive_data(b"") == Reply(200, b"hello")


@pytest.mark.parametrize(
    ("parts", "why"),
    [
        ([b"HTTP/1.1 302 Found\r\nLocation: http://11.0.0.1/\r\n\r\n"], "redirects"),
        ([b"SSH-2.0-x\r\n\r\n"], "HTTP"),
        ([b""], "closed|HTTP"),
        ([b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nx", b""], "HTTP"),
        ([b"HTTP/1.1 200 OK\r\n" + b"X: " + b"y" * 20000], "HTTP"),
        ([b"HTTP/1.1 200 OK\r\n\r\n", bytes(MAX_BODY), b"x"], "over"),
    ],
)
def test_what_is_refused(parts, why):
    made = exchange()
    with pytest.raises(PortmapError, match=why):
        for each in parts:
            made.receive_data(each)


@given(st.lists(st.binary(max_size=200), max_size=5))
def test_any_bytes_are_read_or_refused(parts):
    made = exchange()
    for each in parts:
        try:
            if made.receive_data(each) is not None:
                return
        except PortmapError:
            return
