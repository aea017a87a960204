from __future__ import annotations

import io
import json

import pytest

from pt.node import qlog
from pt.node.qlog import QlogFiles
from pt.trace import Tracer


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def tracer(path) -> tuple[Tracer, io.StringIO]:
    sink = io.StringIO()
    return Tracer(sink, Clock(), 1_800_000_000.0, str(path)), sink


def records(path) -> list[dict]:
    text = path.read_text()
    assert all(part.endswith("\n") for part in text.split("\x1e")[1:])
    return [json.loads(part) for part in text.split("\x1e")[1:]]


def test_a_file_a_connection_on_the_trace_s_clock(tmp_path) -> None:
    trace, sink = tracer(tmp_path / "t.jsonl")
    files = QlogFiles(trace)
    one = files.trace(True, b"\x01\x02")
    two = files.trace(False, b"\x01\x02")
    assert one is not None
    assert two is not None
    one(100.25, "transport:packet_sent", {"header": {"packet_type": "initial"}})
    head, event = records(tmp_path / "t.jsonl.0102.client.sqlog")
    assert head["qlog_version"] == "0.3"
    assert head["trace"]["vantage_point"] == {"type": "client"}
    assert head["trace"]["common_fields"]["reference_time"] == 1_800_000_000_000.0
    assert event == {
        "time": 250.0,
        "name": "transport:packet_sent",
        "data": {"header": {"packet_type": "initial"}},
    }
    assert len(records(tmp_path / "t.jsonl.0102.server.sqlog")) == 1
    files.close()
    one(100.5, "transport:packet_sent", {})
    assert len(records(tmp_path / "t.jsonl.0102.client.sqlog")) == 2
    told = [json.loads(line) for line in sink.getvalue().splitlines()]
    assert [each["event"] for each in told] == ["trace_start", "qlog", "qlog"]
    assert (tmp_path / "t.jsonl.0102.server.sqlog").stat().st_mode & 0o777 == 0o600


def test_files_are_bounded(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(qlog, "MAX_FILES", 2)
    monkeypatch.setattr(qlog, "MAX_BYTES", 2000)
    trace, _ = tracer(tmp_path / "t")
    files = QlogFiles(trace)
    found = [files.trace(True, bytes((n,))) for n in range(3)]
    assert found[0] is not None
    assert found[2] is None
    for _ in range(100):
        found[0](101.0, "recovery:metrics_updated", {"cwnd": 1})
    written = records(tmp_path / "t.00.client.sqlog")
    assert written[-1]["name"] == "generic:info"
    assert len(written) < 50
    files.close()


def test_without_a_file_there_is_none() -> None:
    assert QlogFiles(Tracer(None)).trace(True, b"x") is None


def test_a_disk_that_takes_nothing_ends_the_file_alone(tmp_path) -> None:
    trace, sink = tracer(tmp_path / "no" / "t")
    assert QlogFiles(trace).trace(True, b"x") is None
    assert "qlog_failed" in sink.getvalue()
    full, _ = tracer("/dev/full")
    file = qlog._File(open("/dev/full", "w"), full, "client", b"x")  # noqa: SIM115
    file(101.0, "a", {})
    assert file._sink is None
