"""A STUN server: what it answers, where to, from where, and how much at most."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pt.stun.attributes import (
    CHANGE_REQUEST,
    CONNECT_BACK,
    LATER,
    MAPPED_ADDRESS,
    OTHER_ADDRESS,
    PADDING,
    RESPONSE_ORIGIN,
    RESPONSE_PORT,
    SOFTWARE,
    UNKNOWN_ATTRIBUTES,
    USERNAME,
    XOR_MAPPED_ADDRESS,
    Change,
    change_request,
    later,
    read_address,
    read_change_request,
    read_error_code,
    read_unknown,
    read_xor_address,
    response_port,
)
from pt.stun.limits import BURST, MAX_ANSWER, MAX_SILENCE, Allowance, Held
from pt.stun.messages import BINDING, FINGERPRINT, Kind, decode, encode
from pt.stun.server import PRIMARY, Place, Server

ID = bytes(range(12))
CLIENT = ("11.0.0.9", 40000)
PLACES = {
    Place(0, 0): ("11.0.0.1", 4001),
    Place(0, 1): ("11.0.0.1", 4002),
    Place(1, 0): ("11.0.0.2", 4001),
    Place(1, 1): ("11.0.0.2", 4002),
}
SIX = {
    place: (f"2001:0:1234:5678:90ab:cdef:1:{place.ip}", port) for place, (_, port) in PLACES.items()
}


def server(places=PLACES, **how) -> Server:
    return Server(dict(places), software="test", **how)


def request(*attributes, **how) -> bytes:
    return encode(Kind.REQUEST, BINDING, ID, attributes, **how)


def ask(one: Server, *attributes, at=PRIMARY, source=CLIENT, now=0.0, stream=False, **how):
    answer = one.receive(request(*attributes, **how), source, at, now, stream=stream)
    assert answer is not None
    return answer, decode(answer.data)


def test_a_binding():
    answer, message = ask(server())
    assert (answer.to, answer.place) == (CLIENT, PRIMARY)
    assert (message.kind, message.transaction) == (Kind.SUCCESS, ID)
    assert read_xor_address(message.get(XOR_MAPPED_ADDRESS), ID) == CLIENT
    assert read_address(message.get(MAPPED_ADDRESS)) == CLIENT
    assert read_address(message.get(RESPONSE_ORIGIN)) == PLACES[PRIMARY]
    assert read_address(message.get(OTHER_ADDRESS)) == PLACES[Place(1, 1)]
    assert message.get(SOFTWARE) == b"test"


def test_a_fingerprint_for_who_uses_it():
    assert ask(server())[1].get(FINGERPRINT) is not None
    assert ask(server(), fingerprint=False)[1].get(FINGERPRINT) is None


def test_ipv6():
    source = ("2001:db8::9", 5)
    answer, message = ask(server(SIX), source=source)
    assert read_xor_address(message.get(XOR_MAPPED_ADDRESS), ID) == source
    assert len(answer.data) <= MAX_ANSWER


@pytest.mark.parametrize("at", PLACES)
@pytest.mark.parametrize("change", [Change(a, b) for a in (False, True) for b in (False, True)])
def test_answers_from_elsewhere(at, change):
    answer, message = ask(server(), change_request(change), at=at)
    assert answer.place == Place(at.ip ^ change.ip, at.port ^ change.port)
    assert answer.to == CLIENT
    assert read_address(message.get(RESPONSE_ORIGIN)) == PLACES[answer.place]
    other = Place(at.ip ^ 1, at.port ^ 1)  # RFC 5780 §7.4: as though both had been changed
    assert read_address(message.get(OTHER_ADDRESS)) == PLACES[other]


def test_without_another_address_no_promise_and_no_answer_from_there():
    one = server({place: PLACES[place] for place in (Place(0, 0), Place(0, 1))})
    assert ask(one)[1].get(OTHER_ADDRESS) is None
    assert ask(one, change_request(Change(False, True)))[0].place == Place(0, 1)
    for change in (Change(True, False), Change(True, True)):
        answer, message = ask(one, change_request(change))
        assert answer.place == PRIMARY
        assert read_error_code(message)[0] == 420
        assert read_unknown(message.get(UNKNOWN_ATTRIBUTES)) == (CHANGE_REQUEST,)


def test_answers_to_another_port():
    answer, _ = ask(server(), response_port(7))
    assert answer.to == (CLIENT[0], 7)


def test_over_a_stream_there_is_one_way_back():
    for attribute in (change_request(Change(False, True)), response_port(7)):
        answer, message = ask(server(), attribute, stream=True)
        assert answer.to == CLIENT
        assert read_unknown(message.get(UNKNOWN_ATTRIBUTES)) == (attribute[0],)
    assert ask(server(), stream=True)[1].kind is Kind.SUCCESS


BACK = (CONNECT_BACK, change_request(Change(True, True))[1])


def told_back(message) -> Change:
    return read_change_request(message.get(CONNECT_BACK))


def test_connections_to_who_asks_for_them_over_a_stream():
    one = server(connections=Allowance(0.0, 5.0))
    answer, message = ask(one, BACK, stream=True)
    assert answer.back == (Place(0, 1), Place(1, 1))
    assert told_back(message) == Change(True, True)
    assert ask(one, BACK)[0].back == ()  # over UDP nobody has proved to be there
    assert ask(one, BACK)[1].get(CONNECT_BACK) is None
    assert ask(one, stream=True)[0].back == ()
    assert ask(one, BACK, stream=True, at=Place(0, 1))[0].back == ()
    assert len(ask(one, BACK, stream=True)[0].back) == 2
    answer, message = ask(one, BACK, stream=True)  # the fifth, and no more
    assert answer.back == (Place(0, 1),)
    assert told_back(message) == Change(False, True)


def test_no_connections_from_what_is_not_there():
    one = server({PRIMARY: PLACES[PRIMARY]}, connections=Allowance())
    answer, message = ask(one, BACK, stream=True)
    assert answer.back == ()
    assert told_back(message) == Change(False, False)
    assert told_back(ask(server(), BACK, stream=True)[1]) == Change(False, False)


def test_what_is_to_be_said_later_over_a_stream():
    held = Held(each=1)
    one = server(held=held)
    answer, message = ask(one, later(20.0), stream=True)
    assert answer.later == 20.0
    assert message.get(LATER) == later(20.0)[1]
    assert ask(one, later(20.0), stream=True)[0].later == 0.0  # a second one of the same source
    held.release(CLIENT[0])
    for other, how in (
        (later(MAX_SILENCE + 1), {"stream": True}),
        (later(0.0), {"stream": True}),
        (later(20.0), {}),
    ):
        answer, message = ask(one, other, **how)
        assert (answer.later, message.get(LATER)) == (0.0, None)
    assert ask(server(), later(20.0), stream=True)[0].later == 0.0
    assert read_error_code(ask(one, (LATER, b"x"), stream=True)[1])[0] == 400
    assert len(held) == 0


def test_unknown_attributes():
    answer, message = ask(server(), (0x7FFF, b""), (0x8FFF, b"may be ignored"), (0x0042, b"x"))
    assert message.kind is Kind.ERROR
    assert read_error_code(message) == (420, "Unknown Attribute")
    assert read_unknown(message.get(UNKNOWN_ATTRIBUTES)) == (0x0042, 0x7FFF)
    assert answer.to == CLIENT


def test_an_error_goes_back_to_who_asked():
    answer, message = ask(server(), (0x7FFF, b""), response_port(7))
    assert answer.to == CLIENT
    assert message.kind is Kind.ERROR


@pytest.mark.parametrize(
    "attributes",
    [
        [(CHANGE_REQUEST, b"")],
        [(RESPONSE_PORT, b"\0\0")],
        [response_port(7), (PADDING, bytes(100))],
    ],
)
def test_bad_requests(attributes):
    answer, message = ask(server(), *attributes)
    assert read_error_code(message)[0] == 400
    assert answer.to == CLIENT


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\0" * 20,
        encode(Kind.INDICATION, BINDING, ID),
        encode(Kind.SUCCESS, BINDING, ID),
        encode(Kind.REQUEST, 3, ID),
        request()[:-1] + b"\0",
    ],
)
def test_what_gets_no_answer(data):
    assert server().receive(data, CLIENT, PRIMARY, 0.0) is None


@given(st.lists(st.tuples(st.integers(0, 0xFFFF), st.binary(max_size=300)), max_size=5))
def test_no_answer_amplifies(attributes):
    kinds = {0x0008, 0x001C, 0x8028}
    data = request(*[each for each in attributes if each[0] not in kinds])
    answer = server(SIX).receive(data, ("2001:db8::9", 5), PRIMARY, 0.0)
    assert answer is not None
    assert len(answer.data) <= max(MAX_ANSWER, len(data))


@pytest.mark.parametrize("length", [0, 1, 100, 500, 1500])
def test_padding_is_answered_in_kind(length):
    data = request((PADDING, bytes(length)))
    answer = server().receive(data, CLIENT, PRIMARY, 0.0)
    assert answer is not None
    assert len(answer.data) <= max(MAX_ANSWER, len(data))
    if length >= 500:
        assert len(answer.data) >= len(data) - 4


def test_what_an_address_gets_is_bounded():
    one = server()
    answers = [
        one.receive(request(), (CLIENT[0], port), PRIMARY, 0.0) for port in range(1, 2 * BURST)
    ]
    assert sum(each is not None for each in answers) == BURST
    assert one.receive(request(), ("11.0.0.8", 1), PRIMARY, 0.0) is not None


def test_a_flood_costs_little_and_ends():
    one = server(allowance=Allowance(1.0, 1.0, total=(0.0, 10.0)))
    answers = [one.receive(request(), (f"11.0.{n}.1", 1), PRIMARY, 0.0) for n in range(50)]
    assert sum(each is not None for each in answers) == 10
    assert one.counts == {"answered": 10, "dropped: too many": 40}


def test_users():
    one = server(password_of={b"ann": b"secret"}.get)
    for key, sha256_key in ((b"secret", None), (None, b"secret")):
        _, message = ask(one, (USERNAME, b"ann"), key=key, sha256_key=sha256_key)
        assert message.kind is Kind.SUCCESS
        assert message.verify(b"secret")
    assert read_error_code(ask(one)[1])[0] == 400
    assert read_error_code(ask(one, (USERNAME, b"ann"))[1])[0] == 400
    assert read_error_code(ask(one, (USERNAME, b"bob"), key=b"secret")[1])[0] == 401
    assert read_error_code(ask(one, (USERNAME, b"ann"), key=b"wrong")[1])[0] == 401


def test_errors_for_users_are_signed():
    one = server(password_of={b"ann": b"secret"}.get)
    _, message = ask(one, (USERNAME, b"ann"), (0x7FFF, b""), key=b"secret")
    assert read_error_code(message)[0] == 420
    assert message.verify(b"secret")


@given(st.binary(max_size=150), st.booleans())
def test_bytes_of_strangers(body, header):
    body = body[: len(body) // 4 * 4]
    data = b"\0\1" + len(body).to_bytes(2) + b"\x21\x12\xa4\x42" + ID + body if header else body
    answer = server().receive(data, CLIENT, PRIMARY, 0.0)
    if answer is not None:
        decode(answer.data)
