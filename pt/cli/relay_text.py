"""A relay's events as lines for people."""

from __future__ import annotations

from pt.cli.text import BOLD, DIM, GREEN, RED, YELLOW, Line, TextView, duration, size
from pt.relayd import events as ev
from pt.tunnel.events import Event

__all__ = ["RelayView"]


class RelayView(TextView):
    """`secret_file` is named in the line that users need."""

    def __init__(
        self,
        *,
        secret_file: str = "",
        colour: bool = False,
        quiet: bool = False,
        verbose: bool = False,
    ) -> None:
        super().__init__(colour=colour, quiet=quiet, verbose=verbose)
        self._secret_file = secret_file
        self._silent = quiet

    def event(self, event: Event, time: float) -> list[Line]:
        """Return the event's lines; `time` is Unix time in seconds."""
        match event:
            case ev.RelayReady():
                return self._relay_ready(event)
            case ev.CircuitOpened() | ev.CircuitClosed() if self._silent:
                return []
            case ev.Reserved():
                text, colour = f"+ {event.peer_id} reserved as {event.grade}", GREEN
            case ev.ReservationEnded():
                text, colour = f"- {event.peer_id} left: {event.reason}", DIM
            case ev.CircuitOpened():
                ends = f"{event.source.short()} → {event.target.short()}"
                text, colour = f"+ #{event.circuit} {event.kind} {ends} ({event.grade})", ""
            case ev.CircuitClosed():
                why = f" ({event.reason})" if event.reason else ""
                moved = f"→{size(event.sent)} ←{size(event.received)}"
                text, colour = f"- #{event.circuit} {duration(event.seconds)} {moved}{why}", ""
            case ev.RelayRefused():
                who = event.peer_id.short() if event.peer_id is not None else "a peer"
                many = f" ({event.count} times)" if event.count > 1 else ""
                text, colour = f"! {event.what} of {who} refused: {event.reason}{many}", RED
            case ev.RelayReloaded():
                rest = f"; needs a restart: {', '.join(event.ignored)}" if event.ignored else ""
                text, colour = f"configuration read again{rest}", YELLOW if rest else GREEN
            case ev.OverlayJoined() | ev.OverlayAlone() | ev.OverlayRestored() | ev.StunPeer():
                text, colour = _company(event)
            case ev.RelayDraining():
                told = f"users of {event.reservations} reservations were told"
                text, colour = f"stopping: {event.circuits} circuits go on, {told}", YELLOW
            case _:
                return super().event(event, time)
        return [Line(f"{self._time(time)} {self.paint(text, colour) if colour else text}")]

    def _relay_ready(self, event: ev.RelayReady) -> list[Line]:
        lines = [Line(self.labelled("peer", str(event.peer_id)))]
        lines += [Line(self.labelled("address", str(each))) for each in event.addresses]
        lines += [Line(self.labelled("overlay", str(each))) for each in event.overlay]
        lines += [Line(self.labelled("stun", str(each))) for each in event.stun]
        if event.page is not None:
            lines.append(Line(self.labelled("page", event.page)))
        strangers = "strangers get nothing" if event.private else "strangers get libp2p's limits"
        users = "users know the secret" if event.secret else "nobody is a user by a secret"
        lines.append(Line(self.labelled("classes", f"{users}; {strangers}", BOLD)))
        option = event.option
        if event.secret:
            option += f" --relay-secret-file {self._secret_file or 'FILE'}"
        text = f"users say:  pt tcp --port 22 {option}"
        lines.append(Line(self.labelled("READY", text, GREEN), to_stdout=True))
        return lines


def _company(
    event: ev.OverlayJoined | ev.OverlayAlone | ev.OverlayRestored | ev.StunPeer,
) -> tuple[str, str]:
    """What is told of other relays, and its colour."""
    match event:
        case ev.OverlayJoined():
            return "overlay: other relays answer", GREEN
        case ev.OverlayAlone():
            return "overlay: no other relay answers any more", YELLOW
        case ev.OverlayRestored():
            lost = f", {event.dropped} had expired" if event.dropped else ""
            return f"overlay: {event.records} records are back{lost}", ""
        case ev.StunPeer():
            text = f"STUN: the relay at {event.address} answers"
            return (text, GREEN) if event.answers else (f"{text} no more", YELLOW)
