from __future__ import annotations

import io
import json

from pt.trace import NO_TRACE, Tracer


class FullDisk(io.StringIO):
    def write(self, text: str) -> int:
        raise OSError(28, "No space left on device")


def test_records_are_lines_of_json_on_one_clock() -> None:
    sink, now = io.StringIO(), [10.0]
    tracer = Tracer(sink, lambda: now[0], wall=1700000000.5)
    now[0] = 10.25
    tracer.emit("dial_ok", address="/ip4/192.0.2.1/tcp/1", seconds=0.1, tried=["a", "b"], ok=True)
    lines = [json.loads(line) for line in sink.getvalue().splitlines()]
    assert lines == [
        {"t": 0.0, "event": "trace_start", "version": 1, "wall": 1700000000.5},
        {
            "t": 0.25,
            "event": "dial_ok",
            "address": "/ip4/192.0.2.1/tcp/1",
            "seconds": 0.1,
            "tried": ["a", "b"],
            "ok": True,
        },
    ]


def test_what_a_peer_said_cannot_break_a_line() -> None:
    sink = io.StringIO()
    Tracer(sink).emit("refused", reason='a\nb"}\n{\x00')
    first, second = sink.getvalue().splitlines()
    assert json.loads(second)["reason"] == 'a\nb"}\n{\x00'
    assert json.loads(first)["event"] == "trace_start"


def test_without_a_sink_nothing_happens() -> None:
    assert not NO_TRACE.enabled
    NO_TRACE.emit("anything", value=1)


def test_a_full_disk_ends_the_trace_alone() -> None:
    tracer = Tracer(FullDisk())
    assert not tracer.enabled
    tracer.emit("goes nowhere")
