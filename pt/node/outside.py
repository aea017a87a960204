"""Whether a mapped address leads here from outside: what AutoNAT, STUN servers and peers say.

A gateway's word is not enough: behind a carrier's NAT its external address is nobody's, and some
gateways grant what they do not do.  STUN servers are asked from the very port that is mapped.  What
AutoNAT servers (`pt.node.autonat`) could not dial is closed; what they could leads here, unless a
STUN server's other address found it closed: a firewall may let in whom we have written to.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Sequence
from enum import Enum
from typing import Final

from pt.errors import PtError
from pt.portmap.mapping import Mapping, Outer
from pt.stun.aio import StunClient, bind_over_tcp
from pt.stun.attributes import Address, Change, change_request
from pt.stun.behaviour import patient
from pt.stun.binding import Binding, read_binding

__all__ = ["MAX_ASKED", "Outside", "judge", "seen_by_servers", "seen_over_tcp"]

MAX_ASKED: Final = 3
"""Servers that are asked, one after the other, until one answers."""
TCP_PATIENCE: Final = 3.0
"""Seconds for a TCP connection to a server and its answer."""


class Outside(Enum):
    """What is known of a mapped address; only the first is published."""

    VERIFIED = "verified"
    """Servers outside find us there."""
    UNVERIFIED = "unverified"
    """Nobody outside could be asked: good for hole punching."""
    CLOSED = "closed"
    """We are there, and strangers are not let in."""
    ELSEWHERE = "elsewhere"
    """Servers outside see us at another IP address: there is another NAT."""
    CARRIER = "carrier"
    """The gateway's own address is of a carrier's NAT."""
    PRIVATE = "private"
    """The gateway's own address is private."""

    @property
    def usable(self) -> bool:
        """Whether it is worth to be told to who punches a hole."""
        return self in (Outside.VERIFIED, Outside.UNVERIFIED)


_OUTER: Final = {Outer.CARRIER: Outside.CARRIER, Outer.PRIVATE: Outside.PRIVATE}


def judge(mapping: Mapping, seen: Iterable[Address], *, strangers: bool | None) -> Outside:
    """Put together what is known: where we were `seen`, and whether `strangers` got in.

    Who is behind a firewall alone may have several addresses, and be seen at another one of them.
    """
    if mapping.outer is not Outer.PUBLIC:
        return _OUTER[mapping.outer]
    if strangers is not None:
        return Outside.VERIFIED if strangers else Outside.CLOSED
    host, port = mapping.external
    told = [each for each in seen if (":" in each[0]) == (":" in host)]
    if (host, port) in told:
        return Outside.VERIFIED
    if told and not mapping.pinhole and host not in {each[0] for each in told}:
        return Outside.ELSEWHERE
    return Outside.UNVERIFIED


async def seen_by_servers(
    client: StunClient, servers: Sequence[Address], mapping: Mapping
) -> tuple[list[Address], bool | None]:
    """Where servers see the shared UDP port, and whether one got in that we had not written to."""
    family = ":" in mapping.external[0]
    for server in [each for each in servers if (":" in each[0]) == family][:MAX_ASKED]:
        try:
            binding = await client.binding(server)
        except PtError:
            continue
        if binding.mapped != mapping.external or binding.other is None:
            return [binding.mapped], None
        outcome = await client.ask(
            server,
            attributes=(change_request(Change(True, True)),),
            schedule=patient(binding.rtt),
            elsewhere=True,
        )
        if read_binding(outcome) is not None and outcome.source is not None:
            return [binding.mapped], outcome.source[0] != server[0] or None
        return [binding.mapped], None if outcome.error is not None else await _shut(client, binding)
    return [], None


async def _shut(client: StunClient, binding: Binding) -> bool | None:
    """False if the server's other address is there, so that its silence was somebody's filter."""
    assert binding.other is not None
    try:
        await client.binding(binding.other)
    except PtError:
        return None
    return False


async def seen_over_tcp(servers: Sequence[Address], mapping: Mapping) -> list[Address]:
    """Where a server sees a TCP connection from the mapped port, beside who listens there."""
    host, port = mapping.internal
    family = ":" in host
    for server in [each for each in servers if (":" in each[0]) == family][:MAX_ASKED]:
        with contextlib.suppress(PtError):
            binding, _ = await bind_over_tcp(server, local=(host, port), timeout=TCP_PATIENCE)
            return [binding.mapped]
    return []
