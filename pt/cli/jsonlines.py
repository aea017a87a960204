"""Events as JSON lines: one object a line, versioned; the schema is in docs/cli.md.

Within one version keys are only added, never renamed, removed or given another type.
"""

from __future__ import annotations

import json
import re
from typing import Final

from pt.errors import PtError
from pt.tunnel.events import Event
from pt.tunnel.facts import Facts

__all__ = ["VERSION", "JsonLines", "dumps", "error_code", "event_name"]

VERSION: Final = 1
Plain = str | int | float | bool | None | list["Plain"] | dict[str, "Plain"]
_encode: Final = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode
_WORD: Final = re.compile(r"(?<!^)(?=[A-Z])")


def _snake(name: str) -> str:
    return _WORD.sub("_", name).lower()


def error_code(error: PtError) -> str:
    """Return an error's stable name: NotFoundError is not_found."""
    return _snake(type(error).__name__.removesuffix("Error"))


def event_name(event: Event) -> str:
    """Return the name of an event's kind: StreamOpened is stream_opened."""
    return _snake(type(event).__name__)


def _plain(value: object) -> Plain:
    if value is None or isinstance(value, (str, bool, int)):
        return value
    if isinstance(value, float):
        return round(value, 6)
    if isinstance(value, (tuple, list)):
        return [_plain(item) for item in value]
    if isinstance(value, Facts):
        return {name: _plain(getattr(value, name)) for name in value.fields}
    return str(value)


def dumps(event: str, time: float, facts: dict[str, object]) -> str:
    """Return one line; `time` is Unix time in seconds."""
    line: dict[str, Plain] = {"v": VERSION, "event": event, "time": round(time, 3)}
    for key, value in facts.items():
        line[key] = _plain(value)
    return _encode(line)


class JsonLines:
    """Turns events into lines; keeps the name of each class, for events come by the dozen."""

    def __init__(self) -> None:
        self._names: dict[type[Event], str] = {}

    def event(self, event: Event, time: float) -> str:
        """Return the event's line."""
        kind = type(event)
        name = self._names.get(kind)
        if name is None:
            name = self._names[kind] = event_name(event)
        return dumps(name, time, {field: getattr(event, field) for field in event.fields})

    def error(self, error: PtError, time: float) -> str:
        """Return the line of the error that ends the command."""
        facts: dict[str, object] = {
            "error": error_code(error),
            "exit_code": error.exit_code,
            "message": str(error),
        }
        return dumps("error", time, facts)

    def dropped(self, count: int, time: float) -> str:
        """Return the line that stands for lines the reader was too slow for."""
        return dumps("dropped", time, {"count": count})
