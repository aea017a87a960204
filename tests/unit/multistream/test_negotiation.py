from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pt.errors import LocalProtocolError, RemoteProtocolError
from pt.multistream.negotiation import (
    MAX_PROPOSALS,
    MAX_TOKEN,
    Initiator,
    Responder,
    accept_reply,
    encode_token,
    lazy_open,
)
from pt.wire import uvarint

HEADER = bytes.fromhex("13") + b"/multistream/1.0.0\n"
NA = bytes.fromhex("036e610a")


def never(_: str) -> bool:
    return False


def test_first_bytes_are_those_that_go_sends() -> None:
    assert Initiator(["/noise"]).data_to_send() == HEADER + b"\x07/noise\n"
    assert lazy_open("/noise") == accept_reply("/noise") == HEADER + b"\x07/noise\n"


def test_responder_speaks_first_only_its_header() -> None:
    responder = Responder(never)
    assert responder.data_to_send() == HEADER
    responder.receive_data(HEADER)
    assert responder.data_to_send() == b""


def test_na_then_the_second_proposal() -> None:
    initiator = Initiator(["/tls/1.0.0", "/noise"])
    responder = Responder("/noise".__eq__)
    responder.data_to_send()
    responder.receive_data(initiator.data_to_send())
    assert responder.data_to_send() == NA
    assert responder.result is None
    initiator.receive_data(HEADER + NA)
    second = initiator.data_to_send()
    assert second == b"\x07/noise\n", "the header goes out once"
    responder.receive_data(second)
    initiator.receive_data(responder.data_to_send())
    assert initiator.result == responder.result == "/noise"
    assert initiator.done
    assert not initiator.failed
    assert initiator.data_to_send() == responder.data_to_send() == b""


def test_all_refused() -> None:
    initiator = Initiator(["/a", "/b"])
    initiator.receive_data(HEADER + NA + NA)
    assert initiator.failed
    assert initiator.done
    assert initiator.result is None


def test_bytes_after_the_agreement_are_kept() -> None:
    responder = Responder("/a".__eq__)
    responder.receive_data(lazy_open("/a") + b"\x03na\nGET /")
    responder.receive_data(b" HTTP")
    assert responder.result == "/a"
    assert responder.leftover() == b"\x03na\nGET / HTTP"
    assert responder.leftover() == b""
    assert Responder(never).leftover() == b""


@given(
    st.lists(st.sampled_from(["/a", "/b/1.0.0", "/c" * 300, "/ü"]), min_size=1, max_size=4),
    st.sets(st.sampled_from(["/a", "/b/1.0.0", "/c" * 300, "/ü"])),
    st.integers(1, 30),
)
def test_any_split_gives_the_same_agreement(
    proposals: list[str], supported: set[str], step: int
) -> None:
    initiator, responder = Initiator(proposals), Responder(supported.__contains__)
    for _ in range(len(proposals) + 1):
        for source, sink in ((initiator, responder), (responder, initiator)):
            data = source.data_to_send()
            for at in range(0, len(data), step):
                sink.receive_data(data[at : at + step])
    wanted = next((p for p in proposals if p in supported), None)
    assert initiator.result == responder.result == wanted
    assert initiator.failed is (wanted is None)


@pytest.mark.parametrize(
    "data",
    [
        b"\x00",
        b"\x81\x08" + b"x" * 1024 + b"\n",
        b"\x80\x80\x80\x80\x80\x80\x80\x80\x80\x01",
        b"\x03abc",
        b"\x03\xff\xfe\n",
        b"SSH-2.0-OpenSSH_9.7\r\n" * 5,
        b"\x13/multistream/2.0.0\n",
        b"\x07/noise\n",
    ],
    ids=[
        "empty",
        "1025 bytes",
        "endless length",
        "no newline",
        "not utf-8",
        "ssh",
        "version",
        "no header",
    ],
)
@pytest.mark.parametrize("role", ["initiator", "responder"])
def test_garbage(role: str, data: bytes) -> None:
    machine = Initiator(["/a"]) if role == "initiator" else Responder(never)
    with pytest.raises(RemoteProtocolError):
        machine.receive_data(data)
    assert not machine.done
    with pytest.raises(LocalProtocolError):
        machine.receive_data(HEADER)


def test_oversize_is_refused_before_it_arrives() -> None:
    with pytest.raises(RemoteProtocolError, match="1025"):
        Responder(never).receive_data(HEADER + uvarint.encode(MAX_TOKEN + 1))


def test_the_longest_token_is_taken() -> None:
    longest = "/" + "x" * (MAX_TOKEN - 2)
    responder = Responder(longest.__eq__)
    responder.receive_data(HEADER + encode_token(longest))
    assert responder.result == longest


def test_answer_that_is_neither_echo_nor_na() -> None:
    initiator = Initiator(["/a", "/b"])
    with pytest.raises(RemoteProtocolError, match="/b"):
        initiator.receive_data(HEADER + encode_token("/b"))


@pytest.mark.parametrize("text", ["ls", "na", "/multistream/1.0.0", ""])
def test_what_is_no_protocol_is_refused(text: str) -> None:
    responder = Responder(lambda protocol: protocol == text and text == "")
    responder.data_to_send()
    raw = text.encode() + b"\n"
    responder.receive_data(HEADER + uvarint.prefix(raw))
    assert responder.data_to_send() == NA


def test_endless_proposals() -> None:
    responder = Responder(never)
    responder.receive_data(HEADER + encode_token("/x") * (MAX_PROPOSALS - 1))
    with pytest.raises(RemoteProtocolError, match="proposals"):
        responder.receive_data(encode_token("/x"))


@pytest.mark.parametrize("text", ["", "a\nb", "x" * MAX_TOKEN])
def test_our_own_tokens_are_checked(text: str) -> None:
    for make in (encode_token, lazy_open, lambda t: Initiator(["/ok", t])):
        with pytest.raises(LocalProtocolError):
            make(text)


def test_nothing_to_propose() -> None:
    with pytest.raises(LocalProtocolError):
        Initiator([])
