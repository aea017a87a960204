from __future__ import annotations

import pytest

from pt.yamux import frames
from pt.yamux.frames import ACK, DATA, FIN, GO_AWAY, HEADER, PING, RST, SYN, WINDOW_UPDATE


@pytest.mark.parametrize(
    ("fields", "wire"),
    [
        # the frames of the specification's life of a stream
        ((0, WINDOW_UPDATE, SYN, 1, 0), "00 01 0001 00000001 00000000"),
        ((0, WINDOW_UPDATE, ACK, 1, 0), "00 01 0002 00000001 00000000"),
        ((0, WINDOW_UPDATE, FIN, 1, 0), "00 01 0004 00000001 00000000"),
        ((0, WINDOW_UPDATE, RST, 1, 7), "00 01 0008 00000001 00000007"),
        ((0, DATA, SYN, 3, 5), "00 00 0001 00000003 00000005"),
        ((0, PING, SYN, 0, 0x01020304), "00 02 0001 00000000 01020304"),
        ((0, GO_AWAY, 0, 0, 1), "00 03 0000 00000000 00000001"),
    ],
)
def test_layout(fields: tuple[int, ...], wire: str) -> None:
    assert HEADER.pack(*fields) == bytes.fromhex(wire)


def test_a_full_frame_fills_one_noise_message() -> None:
    noise_tag = 16
    assert frames.HEADER_LEN == 12
    assert frames.HEADER_LEN + frames.MAX_PAYLOAD + noise_tag == 0xFFFF


def test_constants_of_the_specification() -> None:
    assert frames.INITIAL_WINDOW == 256 * 1024
    assert (frames.GO_AWAY_NORMAL, frames.GO_AWAY_PROTOCOL, frames.GO_AWAY_INTERNAL) == (0, 1, 2)


def test_an_error_says_protocol_error_unless_told() -> None:
    assert frames.YamuxError("why").code == frames.GO_AWAY_PROTOCOL
    assert frames.YamuxError("why", frames.GO_AWAY_INTERNAL).code == frames.GO_AWAY_INTERNAL
