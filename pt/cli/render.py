"""One event handler that shows everything: as text or JSON lines, and to the trace file.

stdout is data, stderr is talk: JSON lines and READY go to stdout, all other text to stderr. A
command that carries a connection on stdin and stdout keeps stdout clean; then all goes to stderr.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import sys
import time
from typing import Final, TextIO

from pt.cli.jsonlines import JsonLines, event_name
from pt.cli.options import wants_json
from pt.cli.output import LineWriter, use_colour
from pt.cli.text import BOLD, Line, TextView
from pt.errors import PtError, UsageError
from pt.trace import NO_TRACE, Tracer
from pt.tunnel.events import Event, StreamClosed, StreamOpened

__all__ = ["Renderer"]

PER_CONNECTION: Final = (StreamOpened, StreamClosed)
"""Told with -v only: at a thousand connections a second they cost more than the connections."""
TRACE_MODE: Final = 0o600
"""A trace holds addresses and peer ids: its owner's business."""
_ANSI: Final = re.compile(r"\x1b\[\d+m")


class Renderer:
    """Call it with each event. `tracer` is for whoever has more to record than events."""

    def __init__(
        self,
        args: argparse.Namespace,
        *,
        name: str = "",
        stdio: bool = False,
        view: TextView | None = None,
    ) -> None:
        self._json = JsonLines() if wants_json(args) else None
        self._verbose = args.verbose > 0
        self._text = view or TextView(
            name=name,
            colour=use_colour(sys.stderr),
            quiet=args.quiet,
            verbose=args.verbose > 0,
        )
        self._plain_stdout = not use_colour(sys.stdout)
        self._err = LineWriter.of(sys.stderr, self._dropped)
        self._out = self._err if stdio else LineWriter.of(sys.stdout, self._dropped)
        self._trace = open_trace(args.trace) if args.trace else None
        self.tracer = (
            NO_TRACE
            if self._trace is None
            else Tracer(self._trace, time.monotonic, time.time(), args.trace)
        )

    def __call__(self, event: Event) -> None:
        """Take one event."""
        now = time.time()
        if self.tracer.enabled:
            self._record(event)
        if self._json is not None:
            if self._verbose or not isinstance(event, PER_CONNECTION):
                self._out.line(self._json.event(event, now))
            return
        for line in self._text.event(event, now):
            self._show(line)

    def heading(self, text: str) -> None:
        """Say what is about to run; only people are told."""
        if self._json is None:
            self._err.line(self._text.paint(text, BOLD))

    def failed(self, error: PtError) -> None:
        """Show the error that ends the command; as text it is left to whoever catches it."""
        self.tracer.emit("error", exit_code=error.exit_code, message=str(error))
        if self._json is not None:
            self._out.line(self._json.error(error, time.time()))

    def close(self) -> None:
        """Close the trace; nothing is shown afterwards."""
        if self._trace is not None:
            with contextlib.suppress(OSError):
                self._trace.close()

    def _show(self, line: Line) -> None:
        if not line.to_stdout:
            self._err.line(line.text)
        elif self._plain_stdout:
            self._out.line(_ANSI.sub("", line.text))
        else:
            self._out.line(line.text)

    def _record(self, event: Event) -> None:
        facts: dict[str, str | int | float | bool | list[str] | None] = {}
        for name in event.fields:
            value = getattr(event, name)
            if isinstance(value, (str, int, float)) or value is None:
                facts[name] = value
            elif isinstance(value, tuple):
                facts[name] = [str(each) for each in value]
            else:
                facts[name] = str(value)
        self.tracer.emit(event_name(event), **facts)

    def _dropped(self, count: int) -> str:
        if self._json is not None:
            return self._json.dropped(count, time.time())
        return self._text.dropped(count)


def open_trace(path: str) -> TextIO:
    """Open `path` for appending, readable by its owner only.

    Raises:
        UsageError: the file cannot be written.

    """
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, TRACE_MODE)
    except OSError as error:
        raise UsageError(f"cannot write the trace {path}: {error.strerror or error}") from error
    return os.fdopen(fd, "a")
