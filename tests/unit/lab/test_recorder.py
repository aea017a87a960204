"""Journals and captures are bounded, and cost nothing when nobody asked for them."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest

from pt.lab import recorder
from pt.lab.recorder import Capture, Journal


def test_a_journal_ends_where_it_must_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recorder, "MAX_BYTES", 200)
    journal = Journal(str(tmp_path / "j"))
    for number in range(20):
        journal.write("drop", 1.0, {"number": number})
    journal.close()
    lines = [json.loads(line) for line in (tmp_path / "j").read_text().splitlines()]
    assert lines[-1] == {"t": 1.0, "event": "full", "bytes": 200}
    assert [line["number"] for line in lines[:-1]] == list(range(len(lines) - 1))
    assert (tmp_path / "j").stat().st_size < 300


def test_a_capture_ends_where_it_must(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recorder, "MAX_BYTES", 200)
    capture = Capture(str(tmp_path / "c"))
    for number in range(20):
        capture.packet(number / 10, bytes(50))
    capture.close()
    data = (tmp_path / "c").read_bytes()
    assert struct.unpack_from("IHH", data) == (0xA1B23C4D, 2, 4)
    packets = (len(data) - 24) / 66
    assert packets == int(packets) == 4


def test_without_a_path_nothing_is_written() -> None:
    journal, capture = Journal(""), Capture("")
    journal.write("drop", 1.0, {})
    capture.packet(1.0, b"x")
    for each in (journal, capture):
        each.flush()
        each.close()
