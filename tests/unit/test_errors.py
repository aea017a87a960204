from __future__ import annotations

from pt.errors import RefusedError, message_of


def test_message_of() -> None:
    assert message_of(RefusedError("not you")) == "not you"
    assert message_of(TimeoutError()) == "no answer in time"
