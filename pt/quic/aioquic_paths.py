"""aioquic's paths: a client that moved is asked again and again whether it is there.

The library repeats PATH_CHALLENGE when its packet was lost, but an answer is never sent twice, and
it fills the first packet with all that may be sent to an address that is not proved.  A client that
moved while it receives sends an acknowledgement or two and then waits: if either is lost, both
sides would wait until the connection is idle for too long.  Source: RFC 9000, sections 8.2 and 9.3.
"""

from __future__ import annotations

from typing import Final

from aioquic import tls
from aioquic.quic.configuration import SMALLEST_MAX_DATAGRAM_SIZE
from aioquic.quic.connection import NetworkAddress, QuicConnection, QuicNetworkPath
from aioquic.quic.packet_builder import QuicPacketBuilder

__all__ = ["PathValidation"]

CHALLENGE_SIZE: Final = 1 + 2 + 9 + 16
"""Bytes of a packet with PATH_CHALLENGE alone, without the connection id."""
MIN_REPEAT: Final = 0.05
"""Seconds at least between two PATH_CHALLENGE."""


class PathValidation(QuicConnection):
    """A connection that proves its client's new address by itself."""

    _challenged_at = 0.0

    @property
    def has_path(self) -> bool:
        """False for a server before its first packet."""
        return bool(self._network_paths)

    @property
    def path(self) -> QuicNetworkPath:
        """Where datagrams go."""
        return self._network_paths[0]

    def is_short_of_credit(self, path: QuicNetworkPath) -> bool:
        """Whether what may be sent there has to be kept for PATH_CHALLENGE and its repetitions."""
        credit = 3 * path.bytes_received - path.bytes_sent
        low = credit < SMALLEST_MAX_DATAGRAM_SIZE
        return self._handshake_complete and not path.is_validated and low

    def get_timer(self) -> float | None:
        """See the library."""
        timer, again = super().get_timer(), self._challenge_again()
        if timer is None or again is None:
            return again if timer is None else timer
        return min(timer, again)

    def datagrams_to_send(self, now: float) -> list[tuple[bytes, NetworkAddress]]:
        """See the library."""
        again = self._challenge_again()
        if again is not None and (again <= now or self._probe_pending):
            self.path.local_challenge_sent = False
        return super().datagrams_to_send(now)

    def _challenge_again(self) -> float | None:
        if self._close_event is not None or not self.has_path or self.path.is_validated:
            return None
        size = CHALLENGE_SIZE + len(self._peer_cid.cid)
        if not (self.path.local_challenge_sent and self.path.can_send(size)):
            return None
        return self._challenged_at + max(self._loss.get_probe_timeout(), MIN_REPEAT)

    def _write_application(
        self, builder: QuicPacketBuilder, network_path: QuicNetworkPath, now: float
    ) -> None:
        asked = network_path.is_validated or network_path.local_challenge_sent
        asking = self._handshake_complete and not asked
        if asking:
            if builder.max_flight_bytes is not None:  # congestion does not limit it
                builder.max_flight_bytes = max(builder.max_flight_bytes, SMALLEST_MAX_DATAGRAM_SIZE)
            space = self._spaces[tls.Epoch.ONE_RTT]
            if space.ack_at is not None:  # a packet of its own would take too much
                space.ack_at = min(space.ack_at, now)
        try:
            super()._write_application(builder, network_path, now)
        finally:
            if asking and network_path.local_challenge_sent:
                self._challenged_at = now

    def _write_path_challenge_frame(
        self, builder: QuicPacketBuilder, network_path: QuicNetworkPath
    ) -> None:
        super()._write_path_challenge_frame(builder, network_path)
        if self.is_short_of_credit(network_path):
            builder._datagram_needs_padding = False  # there would be nothing left to ask again

    def _write_path_response_frame(self, builder: QuicPacketBuilder, challenge: bytes) -> None:
        super()._write_path_response_frame(builder, challenge)
        # Padded to what every path carries, not to our largest: the question may be about that.
        for name in ("_buffer_capacity", "_flight_capacity"):
            setattr(builder, name, min(getattr(builder, name), SMALLEST_MAX_DATAGRAM_SIZE))
