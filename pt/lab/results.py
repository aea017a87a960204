"""Results of attempts: one JSON line each, appended as it ends, read back to go on or to report.

    {"v": 1, "event": "attempt", "a": SPEC, "b": SPEC, "link": SPEC, "strategy": …, "run": 0, …}

docs/lab.md has the schema. A line that is damaged (a full disk, a killed run) is passed over.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

__all__ = ["Attempt", "Cell", "append", "read"]

VERSION: Final = 1
MAX_LINE: Final = 4 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One pair under one condition; `label` groups cells in the report."""

    a: str
    b: str
    link: str = ""
    cgn: str = ""
    strategy: str = "auto"
    engine: str = "user"
    lan: int = 1
    overlap: bool = False
    pps: int = 0
    """Packets a second that both sides allow; 0: as many as the puncher does by itself."""
    label: str = ""

    @property
    def key(self) -> str:
        """What tells it from others, whatever it is called."""
        fields = dataclasses.asdict(self)
        fields.pop("label")
        if not self.pps:
            fields.pop("pps")  # seeds of campaigns from before there was a choice
        return json.dumps(fields, sort_keys=True)

    def seed(self, master: int, run: int) -> int:
        """Return the seed of a run: the same for the same cell in any campaign."""
        digest = hashlib.sha256(f"{master}/{self.key}/{run}".encode()).digest()
        return int.from_bytes(digest[:4], "big")

    @property
    def words(self) -> dict[str, Any]:
        """The words that build its laboratory."""
        return {
            "a": self.a,
            "b": self.b,
            "link": self.link,
            "cgn": self.cgn,
            "engine": self.engine,
            "lan": self.lan,
            "overlap": self.overlap,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """How one run of a cell ended. Times are seconds; `timeline` is relative to its beginning."""

    cell: Cell
    run: int
    seed: int
    puncher: str
    direct: bool
    seconds: float | None = None
    winner: str = ""
    reason: str = ""
    """Why it is not direct."""
    times: dict[str, float] = field(default_factory=dict)
    """Until a path was agreed on, by side; `seconds` is the later one."""
    verified: float | None = None
    """Until one side had an answer from the other, if the puncher says so."""
    decided: float | None = None
    """Until the slower side had its outcome, whatever it was."""
    packets: dict[str, int] = field(default_factory=dict)
    classes: dict[str, str] = field(default_factory=dict)
    """Of both sides, as the laboratory knows them."""
    timeline: list[dict[str, Any]] = field(default_factory=list)
    wall: float = 0.0

    def line(self) -> str:
        """Return its JSON line."""
        fields = dataclasses.asdict(self)
        fields |= fields.pop("cell")
        return json.dumps({"v": VERSION, "event": "attempt", **fields}, ensure_ascii=False) + "\n"


_CELL: Final = {each.name for each in dataclasses.fields(Cell)}
_ATTEMPT: Final = {each.name for each in dataclasses.fields(Attempt)} - {"cell"}


def _parse(line: str) -> Attempt | None:
    try:
        found = json.loads(line)
        if found["event"] != "attempt" or found["v"] != VERSION:
            return None
        cell = Cell(**{name: found[name] for name in _CELL if name in found})
        rest = {name: found[name] for name in _ATTEMPT if name in found}
        return Attempt(cell=cell, **rest)
    except (ValueError, KeyError, TypeError):
        return None


def read(path: Path) -> Iterator[Attempt]:
    """Yield the attempts of a file, none of a file that is not there."""
    if not path.exists():
        return
    with path.open(encoding="utf-8", errors="replace") as file:
        while line := file.readline(MAX_LINE):
            attempt = _parse(line)
            if attempt is not None:
                yield attempt


def append(path: Path, attempts: Iterable[Attempt]) -> None:
    """Add attempts to a file, each line whole."""
    with path.open("a", encoding="utf-8") as file:
        for attempt in attempts:
            file.write(attempt.line())
