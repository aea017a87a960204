from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pt.errors import LocalProtocolError
from pt.wire import protobuf
from pt.wire.nat_facts import Allocation, Dependence, NatFacts, NatFactsError, Protocol

TRI = st.sampled_from([None, False, True])
MILLI = st.none() | st.integers(0, 10**8).map(lambda ms: ms / 1000)
FACTS = st.builds(
    NatFacts,
    family=st.just(4),
    protocol=st.sampled_from(Protocol),
    works=TRI,
    translated=TRI,
    mapping=st.sampled_from(Dependence),
    filtering=st.sampled_from(Dependence),
    ports=st.sampled_from(Allocation),
    step=st.integers(-4096, 4096),
    block=st.none()
    | st.tuples(st.integers(1, 65535), st.integers(1, 65535)).map(lambda two: tuple(sorted(two))),
    hairpin=TRI,
    simultaneous_open=TRI,
    lifetime=MILLI,
    inbound_refreshes=TRI,
    max_age=MILLI,
    noise=MILLI,
    quota=st.none() | st.integers(0, 1 << 20),
    external=st.none() | st.ip_addresses(v=4).map(str),
    carrier_grade=TRI,
)


@given(FACTS)
def test_what_is_written_is_read(facts: NatFacts) -> None:
    assert NatFacts.decode(facts.encode()) == facts


@given(st.binary(max_size=300))
def test_any_bytes_are_facts_or_an_error(body: bytes) -> None:
    with contextlib.suppress(NatFactsError):
        NatFacts.decode(body)


def test_of_nothing_known_two_fields_remain() -> None:
    assert NatFacts().encode() == bytes.fromhex("08041000")
    assert NatFacts(family=6, protocol=Protocol.TCP).encode() == bytes.fromhex("08061001")


def test_an_ipv6_address_is_kept() -> None:
    facts = NatFacts(family=6, external="2a00:6000::1")
    assert NatFacts.decode(facts.encode()).external == "2a00:6000::1"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        protobuf.put_uint(1, 5) + protobuf.put_uint(2, 0),
        protobuf.put_uint(1, 4) + protobuf.put_uint(2, 2),
        NatFacts().encode() + protobuf.put_uint(8, 2 * 4097),
        NatFacts().encode() + protobuf.put_uint(9, 2000 << 16 | 1999),
        NatFacts().encode() + protobuf.put_uint(9, 5),
        NatFacts().encode() + protobuf.put_bytes(17, bytes(16)),
        NatFacts().encode() + bytes(300),
        b"\x08",
    ],
)
def test_what_no_nat_does_is_refused(body: bytes) -> None:
    with pytest.raises(NatFactsError):
        NatFacts.decode(body)


def test_a_newer_peers_words_are_unknown() -> None:
    facts = NatFacts.decode(NatFacts().encode() + protobuf.put_uint(5, 9) + protobuf.put_uint(7, 9))
    assert facts.mapping is Dependence.UNKNOWN
    assert facts.ports is Allocation.UNKNOWN


def test_a_name_is_not_an_address() -> None:
    with pytest.raises(LocalProtocolError):
        NatFacts(external="relay.example").encode()


@pytest.mark.parametrize(
    ("facts", "label"),
    [
        (NatFacts(), "?m-?f"),
        (NatFacts(works=False), "blocked"),
        (NatFacts(translated=False, filtering=Dependence.INDEPENDENT), "public"),
        (NatFacts(translated=False, filtering=Dependence.ADDRESS_AND_PORT), "fw-apdf"),
        (NatFacts(mapping=Dependence.INDEPENDENT, filtering=Dependence.ADDRESS), "eim-adf"),
        (
            NatFacts(
                mapping=Dependence.ADDRESS_AND_PORT,
                filtering=Dependence.ADDRESS_AND_PORT,
                ports=Allocation.SEQUENTIAL,
            ),
            "apdm-seq-apdf",
        ),
        (
            NatFacts(
                mapping=Dependence.ADDRESS,
                filtering=Dependence.INDEPENDENT,
                ports=Allocation.RANDOM,
                block=(2000, 2511),
            ),
            "adm-block-eif",
        ),
    ],
)
def test_labels(facts: NatFacts, label: str) -> None:
    assert facts.label == label
