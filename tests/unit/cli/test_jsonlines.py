from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from pt import errors
from pt.cli.jsonlines import VERSION, JsonLines, error_code
from pt.tunnel import events as ev
from tests.unit.cli.samples import (
    COMMAND,
    EVENTS,
    LAN,
    LOOPBACK,
    PEER,
    PUBLIC,
    READY_BIND,
    READY_TCP,
)

# The schema of version 1: keys may be added here, never changed or removed.
SCHEMA_1 = {
    "started": {"peer_id": str, "name": str, "strength": str, "addresses": list},
    "published": {"medium": str, "ok": bool, "detail": str, "seconds": float},
    "ready": {"peer_id": str, "addresses": list, "bind_command": str | None, "ports": list,
              "outside": bool | None},
    "reachable": {"addresses": list, "bind_command": str},
    "looking_up": {"media": list},
    "searched": {"medium": str, "ok": bool, "detail": str, "seconds": float},
    "found": {"peer_id": str, "medium": str, "addresses": list, "seconds": float},
    "punched": {"ok": bool, "strategy": str, "seconds": float, "detail": str},
    "mapped": {
        "ok": bool, "service": str, "protocol": str, "internal": str, "external": str,
        "outside": str, "detail": str,
    },
    "address_reachability": {"address": str, "reachable": bool, "published": bool, "detail": str},
    "pinned": {"peer_id": str},
    "connected": {"peer_id": str, "path": str, "address": str, "rtt": float, "suite": str},
    "disconnected": {"peer_id": str, "reason": str},
    "retrying": {"delay": float, "reason": str},
    "resumed": {"peer_id": str, "streams": int, "seconds": float},
    "stream_opened": {"stream": int, "peer_id": str, "port": int},
    "stream_closed": {
        "stream": int, "sent": int, "received": int, "seconds": float, "reason": str,
    },
    "progress": {
        "medium": str, "calls": int, "asked": int, "answered": int, "failed": int, "stored": int,
        "bytes": int, "sockets": int, "seconds": float, "done": bool, "cut": bool,
    },
    "stream_refused": {"stream": int, "port": int, "code": str, "reason": str},
    "rejected": {"reason": str, "peer_id": str, "address": str},
    "warned": {"message": str},
    "stopped": {"reason": str},
}  # fmt: skip


@pytest.mark.parametrize("event", EVENTS, ids=lambda event: type(event).__name__)
def test_each_event_keeps_its_schema(event: ev.Event) -> None:
    line = JsonLines().event(event, 1700000000.12345)
    assert "\n" not in line
    data = json.loads(line)
    assert data.pop("v") == VERSION == 1
    assert data.pop("time") == 1700000000.123
    schema = SCHEMA_1[data.pop("event")]
    assert schema.keys() <= data.keys()
    for key, kind in schema.items():
        assert isinstance(data[key], kind), key


def test_every_event_class_is_in_the_schema_and_in_the_samples() -> None:
    classes = {
        cls for cls in vars(ev).values() if isinstance(cls, type) and issubclass(cls, ev.Event)
    }
    assert {type(event) for event in EVENTS} == classes - {ev.Event}
    assert len(SCHEMA_1) == len(classes) - 1


def test_every_event_and_field_is_documented() -> None:
    text = (Path(__file__).parents[3] / "docs" / "cli.md").read_text()
    for name, keys in SCHEMA_1.items():
        row = next((line for line in text.splitlines() if line.startswith(f"| `{name}` |")), None)
        assert row is not None, name
        for key in keys:
            assert f"`{key}`" in row, (name, key)


def test_ready_of_the_exposer() -> None:
    data = json.loads(JsonLines().event(READY_TCP, 0))
    assert data["peer_id"] == str(PEER)
    assert data["addresses"] == [str(LOOPBACK), str(LAN), str(PUBLIC)]
    assert data["bind_command"] == COMMAND


def test_ready_of_the_binder() -> None:
    data = json.loads(JsonLines().event(READY_BIND, 0))
    assert data["ports"] == [{"local": 2022, "remote": 22, "host": "127.0.0.1"}]


def test_unicode_is_kept_and_nothing_breaks_a_line() -> None:
    line = JsonLines().event(ev.Warned(message="später\nzwei ✓"), 0)
    assert "✓" in line
    assert "\n" not in line


def test_the_error_line() -> None:
    data = json.loads(JsonLines().error(errors.NotFoundError("nobody is called x"), 1))
    assert data == {
        "v": 1, "event": "error", "time": 1, "error": "not_found", "exit_code": 3,
        "message": "nobody is called x",
    }  # fmt: skip


def test_every_error_has_a_stable_code() -> None:
    codes = []
    for name in errors.__all__:
        cls = getattr(errors, name)
        if isinstance(cls, type) and issubclass(cls, errors.PtError):
            codes.append(error_code(cls.__new__(cls)))
    assert len(set(codes)) == len(codes)
    assert all(re.fullmatch(r"[a-z]+(_[a-z]+)*", code) for code in codes)


def test_dropped() -> None:
    assert json.loads(JsonLines().dropped(3, 0))["count"] == 3


def test_a_class_is_read_once() -> None:
    lines = JsonLines()
    first = lines.event(EVENTS[0], 0)
    changed = ev.Started(peer_id=PEER, name="other")
    assert json.loads(lines.event(changed, 0))["name"] == "other" != json.loads(first)["name"]
