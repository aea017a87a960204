"""Where peers see a node: what they say in identify, noted by connection.

One place for all who want to know: hole punching, port mappings, AutoNAT.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pt.autonat.observed import Observed
from pt.wire.multiaddr import Multiaddr
from pt.wire.nat_facts import Dependence, Protocol

if TYPE_CHECKING:
    from pt.aio.udp import Address
    from pt.node.connection import Connection
    from pt.node.node import Node

__all__ = ["ObservedAddresses"]


class ObservedAddresses:
    """Of one node: what direct peers say of the ports that it listens on, or shares over UDP."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._words = Observed()
        self._dialed = Observed()
        self._noted: set[Connection] = set()
        node.on_identified.append(self._note)

    @property
    def addresses(self) -> list[Multiaddr]:
        """Public ones, the most agreed on first; one observer is enough."""
        return self._words.addresses()

    @property
    def by_dialed(self) -> list[Multiaddr]:
        """The same by the word of those alone whom we have dialed: strangers may come to lie.

        Without those that each sees elsewhere: through such a NAT they lead nowhere.
        """
        return [each for each in self._dialed.addresses() if not self._varies(each)]

    def _varies(self, address: Multiaddr) -> bool:
        host, over_udp = address.host, address.udp_port is not None
        family = 6 if host is not None and host[0] == "ip6" else 4
        mapping = self._dialed.mapping(family, "udp" if over_udp else "tcp")
        return mapping is Dependence.ADDRESS

    def seen(self, protocol: Protocol) -> list[Address]:
        """The same as host and port, of one protocol."""
        found: dict[Address, None] = {}
        for each in self.addresses:
            port = each.udp_port if protocol is Protocol.UDP else each.tcp_port
            if each.host is not None and port:
                found[each.host[1], port] = None
        return list(found)

    def _note(self, connection: Connection) -> None:
        said = connection.identified
        if connection.relay is not None or said is None or said.observed is None:
            return
        if connection.closed:
            return
        node = self._node
        points = [Multiaddr.tcp(host, port) for host, port in node.points]
        if node.quic.udp is not None:
            points += [Multiaddr.quic(host, port) for host, port in node.quic.udp.addresses]
        counts = False
        for words in (self._words, self._dialed) if connection.initiator else (self._words,):
            words.listening(points)
            counts |= words.record(
                connection, connection.local_addr, connection.remote_addr, said.observed
            )
        if counts and connection not in self._noted:
            self._noted.add(connection)
            connection.on_close.append(lambda _: self._forget(connection))

    def _forget(self, connection: Connection) -> None:
        self._noted.discard(connection)
        self._words.forget(connection)
        self._dialed.forget(connection)
