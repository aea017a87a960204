from __future__ import annotations

import pytest

from pt.errors import UsageError
from pt.node.upgrade import PT_SECURITY, SECURITY
from pt.tunnel.settings import congestion, security


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, (PT_SECURITY, SECURITY)),
        ("", (PT_SECURITY, SECURITY)),
        ("AUTO", (PT_SECURITY, SECURITY)),
        ("aesgcm", (PT_SECURITY, SECURITY)),
        ("ChaChaPoly", (SECURITY,)),
    ],
)
def test_suite(monkeypatch, value, expected) -> None:
    monkeypatch.delenv("PT_SUITE", raising=False)
    if value is not None:
        monkeypatch.setenv("PT_SUITE", value)
    assert security() == expected


def test_an_unknown_suite_is_said(monkeypatch) -> None:
    monkeypatch.setenv("PT_SUITE", "rot13")
    with pytest.raises(UsageError, match=r"rot13.*use auto"):
        security()


@pytest.mark.parametrize(
    ("value", "expected"), [(None, "auto"), ("kernel", ""), ("bbr", "bbr"), ("auto", "auto")]
)
def test_congestion(monkeypatch, value, expected) -> None:
    monkeypatch.delenv("PT_CONGESTION", raising=False)
    if value is not None:
        monkeypatch.setenv("PT_CONGESTION", value)
    assert congestion() == expected
