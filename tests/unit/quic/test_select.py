from __future__ import annotations

import sys

import pytest

from pt.errors import UsageError
from pt.quic import select
from pt.quic.engine_aioquic import AioquicEngine


def test_the_first_is_the_default() -> None:
    assert select.default().name == select.factories()[0].name
    assert select.default("aioquic") is AioquicEngine
    assert select.factories()[-1].name == "aioquic"
    assert [f.name for f in select.factories()] == [
        name for name in select.NAMES if name in {f.name for f in select.factories()}
    ]


def test_an_engine_that_is_not_there() -> None:
    with pytest.raises(UsageError, match=r"'quiche' here: use .*aioquic"):
        select.default("quiche")


def test_without_the_native_library_python_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "qh3._hazmat", None)
    for module in ("engine_qh3", "qh3_connection"):
        monkeypatch.delitem(sys.modules, f"pt.quic.{module}", raising=False)
    assert select.default().name == "aioquic"
