from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pt.ping.echo import PAYLOAD_LEN, PROTOCOL, Echo


def test_wire_constants() -> None:
    assert (PROTOCOL, PAYLOAD_LEN) == ("/ipfs/ping/1.0.0", 32)


@given(st.lists(st.binary(max_size=70), max_size=8))
def test_whole_pings_come_back_and_nothing_else(pieces: list[bytes]) -> None:
    echo, got = Echo(), b""
    for piece in pieces:
        echo.receive_data(piece)
        out = echo.data_to_send()
        assert len(out) % 32 == 0
        got += out
    sent = b"".join(pieces)
    assert got == sent[: len(sent) // 32 * 32]
