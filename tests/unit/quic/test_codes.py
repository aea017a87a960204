from __future__ import annotations

import pytest

from pt.quic.codes import ConnectionCode, StreamCode, describe


@pytest.mark.parametrize(
    ("code", "application", "text"),
    [
        (0, False, "no error (0x0)"),
        (0, True, "code 0x0"),
        (0xA, False, "protocol violation (0xa)"),
        (0x12A, False, "TLS: bad certificate (0x12a)"),
        (0x1FF, False, "TLS: alert 255 (0x1ff)"),
        (0x1006, True, "shutdown (0x1006)"),
        (0x1006, False, "code 0x1006"),
        (0x200, False, "code 0x200"),
    ],
)
def test_codes_have_names(code: int, application: bool, text: str) -> None:
    assert describe(code, application=application) == text


def test_a_streams_codes_are_a_connections_shifted_by_one() -> None:
    shifted = {code.name: code + 1 for code in ConnectionCode}
    assert shifted == {code.name: code.value for code in StreamCode}
