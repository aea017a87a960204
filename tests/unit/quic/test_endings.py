from __future__ import annotations

import pytest

from pt.errors import ClosedError, CryptoFailure, RemoteProtocolError
from pt.quic.codes import ConnectionCode, TransportCode
from pt.quic.endings import error_of, reason_of
from pt.quic.events import Closed

OURS = CryptoFailure("forged")
SAID = "the peer closed the connection"


@pytest.mark.parametrize(
    ("event", "text", "error"),
    [
        (Closed(0x12A, False, "bad", False, OURS), "forged", CryptoFailure),
        (Closed(0, False, "", False), "no sign of life", TimeoutError),
        (Closed(0, False, "handshake timed out", False), "handshake timed out", TimeoutError),
        (Closed(0, True, "", True), SAID, ClosedError),
        (
            Closed(ConnectionCode.SHUTDOWN, True, "bye", True),
            f"{SAID} (bye: shutdown (0x1006))",
            ClosedError,
        ),
        (
            Closed(TransportCode.PROTOCOL_VIOLATION, False, "", False),
            "protocol violation (0xa)",
            RemoteProtocolError,
        ),
    ],
)
def test_what_an_end_means(event: Closed, text: str, error: type[Exception]) -> None:
    assert reason_of(event) == text
    with pytest.raises(error):
        raise error_of(event)
