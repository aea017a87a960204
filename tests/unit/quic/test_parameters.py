from __future__ import annotations

import pytest
from aioquic.buffer import Buffer
from aioquic.quic.packet import (
    QuicTransportParameters,
    pull_quic_transport_parameters,
    push_quic_transport_parameters,
)
from hypothesis import given
from hypothesis import strategies as st

from pt.quic.packets import put_varint
from pt.quic.parameters import ParameterError, Parameters

OURS = Parameters(
    idle_timeout=30.0,
    max_udp_payload=1472,
    max_data=16_000_000,
    stream_bidi_local=262_144,
    stream_bidi_remote=262_145,
    stream_uni=7,
    streams_bidi=512,
    streams_uni=3,
    ack_delay_exponent=4,
    max_ack_delay=0.026,
    connection_id_limit=8,
    initial_source=b"source",
    original_destination=b"original",
    retry_source=b"retried!",
    reset_token=b"t" * 16,
)


def test_aioquic_reads_ours() -> None:
    theirs = pull_quic_transport_parameters(Buffer(data=OURS.encode()))
    assert theirs == QuicTransportParameters(
        max_idle_timeout=30_000,
        max_udp_payload_size=1472,
        initial_max_data=16_000_000,
        initial_max_stream_data_bidi_local=262_144,
        initial_max_stream_data_bidi_remote=262_145,
        initial_max_stream_data_uni=7,
        initial_max_streams_bidi=512,
        initial_max_streams_uni=3,
        ack_delay_exponent=4,
        max_ack_delay=26,
        active_connection_id_limit=8,
        initial_source_connection_id=b"source",
        original_destination_connection_id=b"original",
        retry_source_connection_id=b"retried!",
        stateless_reset_token=b"t" * 16,
    )


def test_we_read_ours_and_aioquics() -> None:
    assert Parameters.decode(OURS.encode(), from_client=False) == OURS
    assert Parameters.decode(b"", from_client=True) == Parameters()
    buf = Buffer(capacity=200)
    push_quic_transport_parameters(
        buf, QuicTransportParameters(max_idle_timeout=500, disable_active_migration=True)
    )
    assert Parameters.decode(buf.data, from_client=True) == Parameters(idle_timeout=0.5)


def raw(number: int, value: bytes) -> bytes:
    return put_varint(number) + put_varint(len(value)) + value


def test_unknown_ones_are_skipped() -> None:
    data = raw(27, b"grease") + raw(4, b"\x05") + raw(0x7F3E, b"")
    assert Parameters.decode(data, from_client=True) == Parameters(max_data=5)


@pytest.mark.parametrize("number", [0x00, 0x02, 0x0D, 0x10])
def test_a_client_may_not_send_a_servers(number: int) -> None:
    with pytest.raises(ParameterError, match="not a client's"):
        Parameters.decode(raw(number, b"t" * 16), from_client=True)


@pytest.mark.parametrize(
    "bad",
    [
        b"\x04",
        b"\x04\x02\x05",
        raw(4, b"\x05") + raw(4, b"\x05"),
        raw(4, b""),
        raw(4, b"\x05\x05"),
        raw(3, put_varint(1199)),
        raw(0x0A, put_varint(21)),
        raw(0x0B, put_varint(1 << 14)),
        raw(0x0E, put_varint(1)),
        raw(0x08, put_varint((1 << 60) + 1)),
        raw(0x09, put_varint((1 << 60) + 1)),
        raw(0x02, b"t" * 15),
        raw(0x0F, b"i" * 21),
    ],
)
def test_what_breaks_a_rule(bad: bytes) -> None:
    with pytest.raises(ParameterError) as caught:
        Parameters.decode(bad, from_client=False)
    assert caught.value.code == 8


def test_the_edges_of_the_rules() -> None:
    data = raw(0x0B, put_varint((1 << 14) - 1)) + raw(0x0A, put_varint(20))
    assert Parameters.decode(data, from_client=True).max_ack_delay == 16.383


@given(st.binary(max_size=60))
def test_junk_is_refused_or_read(data: bytes) -> None:
    try:
        parameters = Parameters.decode(data, from_client=False)
    except ParameterError:
        return
    assert Parameters.decode(parameters.encode(), from_client=False) == parameters
