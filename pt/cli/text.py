"""Events as lines for people.

READY goes to stdout, everything else to stderr. A label, then the fact; colour only marks labels.
For the log of a long run, lines about connections begin with the time of day.
"""

from __future__ import annotations

import shlex
import time as clock
from typing import Final, NamedTuple

from pt.tunnel import events as ev
from pt.wire.multiaddr import Multiaddr

__all__ = ["Line", "TextView", "duration", "size"]

LABEL_WIDTH: Final = 9
LONG: Final = 5.0
"""Seconds after which people are told how far a look-up has come."""
GREEN, RED, YELLOW, DIM, BOLD, RESET = (f"\x1b[{code}m" for code in (32, 31, 33, 2, 1, 0))
_TRY: Final = {
    22: "ssh -p {local} user@{host}",
    80: "curl http://{host}:{local}/",
    443: "curl -k https://{host}:{local}/",
    3306: "mysql -h {host} -P {local}",
    5432: "psql -h {host} -p {local}",
    5900: "vncviewer {host}::{local}",
    6379: "redis-cli -h {host} -p {local}",
    8000: "curl http://{host}:{local}/",
    8080: "curl http://{host}:{local}/",
}


class Line(NamedTuple):
    """One line of output."""

    text: str
    to_stdout: bool = False


def duration(seconds: float) -> str:
    """Return a time as people say it: 23 ms, 1.4 s, 6m29s, 2h05m."""
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes}m{rest:02d}s"
    return f"{minutes // 60}h{minutes % 60:02d}m"


def size(count: int) -> str:
    """Return a number of bytes as people say it: 512 B, 1.2 MB, 3.0 GB."""
    value, units = float(count), iter(("kB", "MB", "GB", "TB"))
    if count < 1000:
        return f"{count} B"
    unit = ""
    while value >= 999.5:
        value, unit = value / 1000, next(units, "PB")
    return f"{value:.1f} {unit}" if value < 99.5 else f"{value:.0f} {unit}"


class TextView:
    """Turns events into lines. `name` is what READY calls the other end of a binder's ports."""

    def __init__(
        self, *, name: str = "", colour: bool = False, quiet: bool = False, verbose: bool = False
    ) -> None:
        self._name = name
        self._colour = colour
        self._quiet = quiet
        self._verbose = verbose
        self._was_ready = False
        self._retry_reason = ""
        self._slow: set[str] = set()
        self._second = -1
        self._clock = ""

    def event(self, event: ev.Event, time: float) -> list[Line]:
        """Return the event's lines; `time` is Unix time in seconds."""
        match event:
            case ev.StreamOpened() | ev.StreamClosed():
                return [] if self._quiet else [self._stream(event, time)]
            case ev.Started():
                return self._started(event)
            case ev.Published() | ev.Searched():
                return self._medium(event)
            case ev.Ready():
                self._was_ready = True
                return self._ready(event)
            case ev.LookingUp():
                return self._looking(event)
            case ev.Found():
                return self._found(event)
            case ev.Progress():
                return self._progress(event)
            case ev.Mapped() | ev.AddressReachability():
                return self._own_address(event)
            case ev.Pinned() | ev.Reachable() | ev.Punched():
                return [self._fact(event, time)]
            case ev.Connected():
                return self._connected(event, time)
            case ev.Resumed():
                return self._resumed(event)
            case ev.StreamRefused() if self._quiet:
                return []
            case ev.Stopped(reason="closed"):
                return []  # it was asked to
            case _:
                return [self._note(event, time)]

    def dropped(self, count: int) -> str:
        """Return the line that stands for lines the reader was too slow for."""
        return f"({count} lines not shown: output was blocked)"

    def paint(self, text: str, colour: str) -> str:
        """Colour `text`, if colours are on."""
        return f"{colour}{text}{RESET}" if self._colour else text

    def labelled(self, label: str, text: str, colour: str = BOLD) -> str:
        """Return `text` after a label of fixed width."""
        return self.paint(label.ljust(LABEL_WIDTH), colour) + text

    # --- before and at READY ------------------------------------------------------------------

    def _started(self, event: ev.Started) -> list[Line]:
        lines = [Line(self.labelled("peer", str(event.peer_id)))]
        if event.strength.startswith("open"):
            lines += self._banner()
        elif event.strength:
            weak = event.strength.startswith("weak")
            advice = "; leave --id out for a strong one" if weak else ""
            text = f"name {event.strength}{advice}"
            lines.append(Line(self.labelled("security", text, YELLOW if weak else BOLD)))
        if self._verbose:
            lines += [Line(self.labelled("listen", str(each))) for each in event.addresses]
        return lines

    def _banner(self) -> list[Line]:
        return [
            Line(self.labelled("OPEN", text, RED))
            for text in (
                "NO AUTHENTICATION: whoever knows or guesses this name gets in, and anyone",
                "may offer the same name. Use --open only to talk to the Go program.",
            )
        ]

    def _medium(self, event: ev.Published | ev.Searched) -> list[Line]:
        """How a medium does."""
        mark = self.paint("✓", GREEN) if event.ok else self.paint("✗", RED)
        parts = [event.medium, mark, event.detail]
        if event.ok and event.seconds:
            parts.append(f"({duration(event.seconds)})")
        label = "publish" if isinstance(event, ev.Published) else "lookup"
        return [Line(self.labelled(label, " ".join(part for part in parts if part)))]

    def _ready(self, event: ev.Ready) -> list[Line]:
        if event.bind_command is not None:
            return self._ready_exposer(event.bind_command, event)
        lines = []
        for port in event.ports:
            host = f"[{port.host}]" if ":" in port.host else port.host
            remote = f" port {port.remote}" if port.remote and len(event.ports) > 1 else ""
            text = f"{host}:{port.local} → {self._name}{remote}"
            command = _TRY.get(port.remote)
            if command is not None:
                text += "   try: " + command.format(local=port.local, host=port.host)
            lines.append(Line(self.labelled("READY", text, GREEN), to_stdout=True))
        return lines or [Line(self.labelled("READY", "stdin and stdout", GREEN), to_stdout=True)]

    def _ready_exposer(self, command: str, event: ev.Ready) -> list[Line]:
        text = f"on the other machine:  {command}"
        lines = [Line(self.labelled("READY", text, GREEN), to_stdout=True)]
        outside = [each for each in event.addresses if not each.is_loopback] or event.addresses
        if " --peer " not in command and outside:
            best = next((each for each in outside if each.is_public), outside[0])
            text = f"from another network:  {command} --peer {shlex.quote(str(best))}"
            lines.append(Line(self.labelled("", text), to_stdout=True))
        if event.outside is False:
            text = "this network only, so far: it is said when others can connect"
            lines.append(Line(self.labelled("", text)))
        if self._verbose:
            lines += [Line(self.labelled("address", str(each))) for each in event.addresses]
        return lines

    # --- the search and the path ----------------------------------------------------------------

    def _looking(self, event: ev.LookingUp) -> list[Line]:
        return [Line(self.labelled("lookup", ", ".join(event.media) or "nowhere to look"))]

    def _found(self, event: ev.Found) -> list[Line]:
        text = f"{event.peer_id.short()} by {event.medium} in {duration(event.seconds)}"
        if self._verbose:
            text += "  " + " ".join(str(each) for each in event.addresses)
        return [Line(self.labelled("found", text))]

    def _progress(self, event: ev.Progress) -> list[Line]:
        """All of it with -v; else once that it takes long."""
        if event.done:
            self._slow.discard(event.medium)
        if not self._verbose:
            if event.done or event.seconds < LONG or event.medium in self._slow:
                return []
            self._slow.add(event.medium)
        parts = [f"{event.asked} asked", f"{event.answered} answered"]
        parts += [f"{event.stored} stored"] if event.stored else []
        parts += [size(event.bytes), f"{event.sockets} socket{'' if event.sockets == 1 else 's'}"]
        going = "" if event.done else " …"
        cut = "; cut short by its budget" if event.cut else ""
        text = f"{event.medium}{going} {', '.join(parts)} ({duration(event.seconds)}){cut}"
        return [Line(self.labelled("progress", text))]

    def _own_address(self, event: ev.Mapped | ev.AddressReachability) -> list[Line]:
        if isinstance(event, ev.Mapped):
            text = f"{event.protocol} {event.external} by {event.service}: {event.detail}"
            return [Line(self.labelled("mapped", text))]
        text = f"{event.address}: {event.detail}"
        return [Line(self.labelled("autonat", text))] if self._verbose else []

    def _fact(self, event: ev.Pinned | ev.Reachable | ev.Punched, time: float) -> Line:
        if isinstance(event, ev.Punched):
            text = event.detail
            if event.ok:
                took = duration(event.seconds)
                text = f"through both NATs in {took} ({event.strategy}): {text}"
            return Line(f"{self._time(time)}   {text}")
        if isinstance(event, ev.Reachable):
            text = f"from other networks, too:  {event.bind_command}"
            return Line(self.labelled("reach", text, GREEN))
        text = f"{event.peer_id}: first use of this name, remembered from now on"
        return Line(self.labelled("pinned", text))

    def _connected(self, event: ev.Connected, time: float) -> list[Line]:
        parts = [event.peer_id.short(), event.path]
        if event.address is not None:
            parts.append(_endpoint(event.address))
        if event.rtt is not None:
            parts.append(duration(event.rtt))
        if event.suite and self._verbose:
            parts.append(event.suite)
        text = " ".join(parts)
        if self._was_ready:
            return [Line(f"{self._time(time)} {self.paint('+', GREEN)} {text}")]
        return [Line(self.labelled("path", text))]

    def _resumed(self, event: ev.Resumed) -> list[Line]:
        text = (
            f"{event.peer_id.short()} after {duration(event.seconds)}, "
            f"{event.streams} open connection{'' if event.streams == 1 else 's'} went on"
        )
        return [Line(self.labelled("resumed", text, GREEN))]

    # --- later, with the time of day ------------------------------------------------------------

    def _time(self, time: float) -> str:
        second = int(time)
        if second != self._second:
            self._second = second
            self._clock = clock.strftime("%H:%M:%S", clock.localtime(second))
        return self._clock

    def _stream(self, event: ev.StreamOpened | ev.StreamClosed, time: float) -> Line:
        if isinstance(event, ev.StreamOpened):
            text = f"+ #{event.stream} {event.peer_id.short()} port {event.port}"
        else:
            end = f" ({event.reason})" if event.reason else ""
            text = (
                f"- #{event.stream} {duration(event.seconds)} "
                f"↑{size(event.sent)} ↓{size(event.received)}{end}"
            )
        return Line(f"{self._time(time)} {text}")

    def _note(self, event: ev.Event, time: float) -> Line:
        match event:
            case ev.Disconnected():
                text, colour = f"- {event.peer_id.short()} lost: {event.reason}", YELLOW
            case ev.Retrying():
                why = event.reason if event.reason != self._retry_reason else "still the same"
                self._retry_reason = event.reason
                text, colour = f"next attempt in {duration(event.delay)}: {why}", YELLOW
            case ev.StreamRefused():
                text, colour = f"! #{event.stream} port {event.port}: {event.reason}", RED
            case ev.Rejected():
                who = event.peer_id if event.peer_id is not None else event.address
                text, colour = f"rejected {who or 'a peer'}: {event.reason}", RED
            case ev.Warned():
                text, colour = f"warning: {event.message}", YELLOW
            case ev.Stopped():
                text, colour = f"stopped: {event.reason}", DIM
            case _:
                text, colour = type(event).__name__, DIM
        return Line(f"{self._time(time)} {self.paint(text, colour)}")


def _endpoint(address: Multiaddr) -> str:
    host, port = address.host, address.tcp_port
    if host is None or port is None:
        return str(address)
    return f"[{host[1]}]:{port}" if ":" in host[1] else f"{host[1]}:{port}"
