"""The protocol table: codes, widths, and each value format's refusals."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pt.errors import RemoteProtocolError, UsageError
from pt.wire.multiaddr_protocols import BY_CODE, BY_NAME, VARIABLE, ValueFormatError
from pt.wire.multihash import MultihashError

# name, code, width in bits: the columns of multiformats/multiaddr protocols.csv
REGISTRY = """
ip4 4 32 | tcp 6 16 | ip6 41 128 | ip6zone 42 V | dns 53 V | dns4 54 V | dns6 55 V | dnsaddr 56 V
udp 273 16 | webrtc-direct 280 0 | webrtc 281 0 | p2p-circuit 290 0 | unix 400 V | p2p 421 V
https 443 0 | tls 448 0 | sni 449 V | noise 454 0 | quic 460 0 | quic-v1 461 0
webtransport 465 0 | certhash 466 V | ws 477 0 | wss 478 0 | http 480 0 | memory 777 64
"""
ROWS = [row.split() for row in REGISTRY.strip().replace("\n", "|").split("|")]


@pytest.mark.parametrize(("name", "code", "bits"), ROWS, ids=[row[0] for row in ROWS])
def test_registry(name, code, bits):
    protocol = BY_NAME[name]
    assert protocol is BY_CODE[int(code)]
    assert protocol.size == (VARIABLE if bits == "V" else int(bits) // 8)


def test_the_table_is_no_larger_than_the_registry():
    assert set(BY_CODE) == {int(code) for _, code, _ in ROWS}
    assert set(BY_NAME) == {name for name, _, _ in ROWS} | {"ipfs"}


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("ip4", "1.2.3"),
        ("ip4", "1.2.3.256"),
        ("ip4", "01.2.3.4"),
        ("ip4", "::1"),
        ("ip6", "1.2.3.4"),
        ("ip6", "fe80::1%eth0"),
        ("ip6", "::1::"),
        ("tcp", "65536"),
        ("tcp", "-1"),
        ("tcp", "+1"),
        ("tcp", "1_0"),
        ("tcp", "٣"),
        ("tcp", ""),
        ("tcp", "9" * 5000),
        ("memory", str(2**64)),
        ("dns", ""),
        ("dns", "a b"),
        ("dns", "a\x1b[31m"),
        ("sni", "a\n"),
        ("p2p", "hello"),
        ("certhash", "zzz"),
        ("unix", "relative"),
        ("unix", "/a/"),
    ],
)
def test_refused_text(name, text):
    with pytest.raises((ValueFormatError, UsageError, MultihashError)):
        BY_NAME[name].to_bytes(text)


@pytest.mark.parametrize(
    ("name", "raw"),
    [
        ("dns", b""),
        ("dns", b"\xff"),
        ("dns", b"a/b"),
        ("dns", b"\x1b[2J"),
        ("unix", b"\xff"),
        ("unix", b"x"),
        ("p2p", b""),
        ("p2p", b"\x12\x20short"),
        ("certhash", b"\x99"),
    ],
)
def test_refused_bytes(name, raw):
    with pytest.raises((ValueFormatError, RemoteProtocolError)):
        BY_NAME[name].to_text(raw)


@given(st.data(), st.sampled_from(sorted(BY_CODE)))
def test_text_of_any_readable_value_reads_back(data, code):
    protocol = BY_CODE[code]
    size = protocol.size
    low, high = (0, 40) if size == VARIABLE else (size, size)
    raw = data.draw(st.binary(min_size=low, max_size=high))
    try:
        text = protocol.to_text(raw)
    except (ValueFormatError, RemoteProtocolError):
        return
    assert protocol.to_bytes(text) == raw
