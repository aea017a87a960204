"""qh3's native QUIC core with what it leaves to others, and what it cannot do.

TLS runs here and hands it keys.  The core's own stream windows are set beyond reach: it would move
them when data is *fetched*.  MAX_STREAM_DATA and PATH_CHALLENGE are sent in packets of our own, for
which the core is made to skip a packet number.  `_hazmat` promises nothing between versions: the
dependency is pinned, and the contract suite holds what is used.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice
from operator import itemgetter
from typing import Any, Final

from qh3._hazmat import QuicConnectionCore

from pt.errors import ProtocolError, RemoteProtocolError
from pt.quic.codes import TransportCode
from pt.quic.engine import Admission, Config
from pt.quic.limits import BASE_DATAGRAM, Limits
from pt.quic.nudge import say_hello
from pt.quic.packets import (
    CID_LENGTH,
    VERSION_1,
    Kind,
    first_packets,
    parse_header,
    reset_token,
    retry_is_valid,
)
from pt.quic.parameters import ParameterError, Parameters
from pt.quic.seal import PacketKey
from pt.quic.tls import Direction, Handshake, Secret, Suite, Verify, packet_keys

__all__ = ["Connection", "FaultError", "VersionError"]

INITIAL, HANDSHAKE, ONE_RTT = 0, 2, 3
_APPLICATION_SPACE: Final = 2
_LOCAL: Final = ("0.0.0.0", 0)
_REMOTE_V4: Final = ("0.0.0.1", 1)  # short: the core makes a text of it for every packet
_REMOTE_V6: Final = ("::1", 1)
_BEYOND_REACH: Final = 1 << 61
_OUR_IDS: Final = 4
_INITIAL_RTT: Final = 0.1
_ACK_DELAY_EXPONENT: Final = 3
_CRYPTO_FRAME: Final = 0x06
_PADDING: Final = b"\x00"
REFRESH: Final = 4096
"""Packets after which packet numbers are read off a real one again: two bytes of them are sent."""

_NAMES: Final = {
    Suite.AES_128_GCM_SHA256: ("aes-128-gcm", "aes-128"),
    Suite.AES_256_GCM_SHA384: ("aes-256-gcm", "aes-256"),
    Suite.CHACHA20_POLY1305_SHA256: ("chacha20-poly1305", "chacha20"),
}


class FaultError(RemoteProtocolError):
    """The core gave up on something: the connection is over."""

    def __init__(self, message: str) -> None:
        if "capacity" in message:  # a frame was cut for larger datagrams than may be sent now
            message = "the path takes smaller datagrams than it did: connect again"
            super().__init__(message, TransportCode.NO_VIABLE_PATH)
        else:
            super().__init__(message, TransportCode.INTERNAL_ERROR)


class Connection:
    """One connection: handshake, keys, packets.  Streams and time are the engine's."""

    def __init__(
        self,
        config: Config,
        verify: Verify,
        admission: Admission | None,
        now: float,
        *,
        ceiling: int,
        ipv6: bool,
    ) -> None:
        self.is_client = admission is None
        self.config = config
        self.host_cid = config.random(CID_LENGTH)
        self.done = False
        self.confirmed = False
        self._held_back: Secret | None = None
        """A server's for 1-RTT packets: what it sends before the client's end of the handshake, the
        core would send again in turns with the handshake, each time twice as late (RFC 9002,
        section 6.2.1)."""
        self.peer: Parameters | None = None
        self.newest_received = 0
        """The highest packet number of the peer's 1-RTT packets, as far as known."""
        self._limits = config.limits
        self._verify = verify
        self._ceiling = ceiling
        self._remote = _REMOTE_V6 if ipv6 else _REMOTE_V4
        self._peer_source: bytes | None = None
        self._retry_source: bytes | None = None
        self._send: PacketKey | None = None
        self._receive: PacketKey | None = None
        self._last_sent: bytes | None = None
        self._sent_number = -1
        self._initials_sent = 0
        self._since_update = 0
        self._since_refresh = 0
        self._offsets = [0, 0, 0, 0]
        if admission is None:
            self.original = config.random(CID_LENGTH)
            self._destination = self.original
        else:
            self.original = admission.original_destination
            self._destination = admission.destination
            if admission.destination != self.original:
                self._retry_source = admission.destination
        validated = admission is None or admission.validated
        self.core = self._new_core(self._destination, now, validated=validated)
        self.tls = Handshake(
            is_client=self.is_client,
            certificate=config.certificate,
            verify=verify,
            parameters=self._parameters().encode(),
            limit=config.limits.handshake_bytes,
        )
        self.first_flight: list[tuple[int, bytes]] = []
        if self.is_client:
            self.tls.start()
            self.first_flight = list(self.tls.output)
            self._drain_tls()

    def _new_core(self, destination: bytes, now: float, *, validated: bool) -> QuicConnectionCore:
        limits = self._limits
        return QuicConnectionCore(
            is_client=self.is_client,
            version=VERSION_1,
            local_addr=_LOCAL,
            remote_addr=self._remote,
            source_cid=self.host_cid,
            destination_cid=destination,
            peer_address_validated=validated,
            active_connection_id_limit=_OUR_IDS,
            max_datagram_size=self._ceiling,
            probe_datagram_size=False,
            idle_timeout=limits.idle_timeout,
            ack_delay_exponent=_ACK_DELAY_EXPONENT,
            max_datagram_frame_size=None,
            peer_max_datagram_frame_size=None,
            connection_receive_window=_core_window(limits),
            connection_send_limit=0,
            stream_receive_window=_BEYOND_REACH,
            stream_send_limit_bidi_local=0,
            stream_send_limit_bidi_remote=0,
            stream_send_limit_uni=0,
            max_stream_reassembly=limits.max_stream_window,
            local_max_streams_bidi=limits.streams,
            local_max_streams_uni=0,
            peer_max_streams_bidi=0,
            peer_max_streams_uni=0,
            initial_rtt=_INITIAL_RTT,
            max_ack_delay=0.025,
            initial_time=now,
        )

    def _parameters(self) -> Parameters:
        limits = self._limits
        return Parameters(
            idle_timeout=limits.idle_timeout,
            max_data=_core_window(limits),
            stream_bidi_local=limits.stream_window,
            stream_bidi_remote=limits.stream_window,
            streams_bidi=limits.streams,
            ack_delay_exponent=_ACK_DELAY_EXPONENT,
            connection_id_limit=_OUR_IDS,
            initial_source=self.host_cid,
            original_destination=None if self.is_client else self.original,
            retry_source=None if self.is_client else self._retry_source,
            reset_token=(
                None if self.is_client else reset_token(self.config.reset_key, self.host_cid)
            ),
        )

    # --- receiving -----------------------------------------------------------------------------

    def receive_early(self, datagram: bytes, now: float, drain: Callable[[], None]) -> int:
        """A datagram before the handshake is confirmed: packet by packet, since keys come between.

        `drain` takes the core's events after each.  Returns how many packets were good and new.
        """
        if self.is_client and self._before_first_answer(datagram, now):
            return 0
        good = 0
        packets = first_packets(datagram)
        if len(packets) == 1:
            # With its padding: what may be sent to an unproved address is counted by the datagram.
            packets = [datagram]
        for packet in packets:
            fresh = self.feed(packet, len(packet), now, whole=len(datagram))
            header = parse_header(packet)
            if fresh and header is not None and header.source and self._peer_source is None:
                self._peer_source = header.source
            good += fresh
            drain()
        return good

    def _before_first_answer(self, datagram: bytes, now: float) -> bool:
        """Handle Retry and Version Negotiation; True: it was one, or is to be ignored."""
        header = parse_header(datagram)
        if header is None:
            return False
        if header.kind is Kind.VERSION_NEGOTIATION:
            offered = datagram[7 + len(header.destination) + len(header.source) :]
            versions = [offered[at : at + 4] for at in range(0, len(offered), 4)]
            if (
                not self.core.received_authenticated_packet
                and header.destination == self.host_cid
                and header.source == self._destination
                and VERSION_1.to_bytes(4, "big") not in versions
            ):
                raise VersionError("the server speaks no version of QUIC that we do")
            return True
        if header.kind is not Kind.RETRY:
            return False
        if (
            self.core.received_authenticated_packet
            or self._retry_source is not None
            or header.destination != self.host_cid
            or header.source == self._destination
            or not retry_is_valid(datagram, self.original)
        ):
            return True
        self._retry_source = self._destination = header.source
        self.core = self._new_core(header.source, now, validated=True)
        self.core.set_initial_token(header.token)
        # The same ClientHello, in packets with new numbers (RFC 9000, section 17.2.5.3).
        self.core.restore_send_packet_number(0, self._initials_sent)
        say_hello(self)
        return True

    def feed(self, data: bytes, segment: int, now: float, *, whole: int | None = None) -> int:
        """Give datagrams of one size to the core; how many packets were good and new."""
        try:
            if segment >= len(data):
                report = self.core.receive_datagram(data, self._remote, now, whole)
            else:
                report = self.core.receive_gro_buffer(data, segment, self._remote, now)
        except (RuntimeError, ValueError):  # what it cannot decrypt, and says so loudly
            return 0
        fresh = report[2]
        self._since_refresh += fresh
        if self._since_refresh >= REFRESH:
            self.follow_updates()
            self.note_number(data[(len(data) - 1) // segment * segment :])
        return fresh

    def note_number(self, datagram: bytes) -> int:
        """Take note of the number of a 1-RTT packet, if it is authentic; returns the highest."""
        opened = self.open_received(datagram)
        if opened is not None and opened[0] > self.newest_received:
            self.newest_received = opened[0]
            self._since_refresh = 0
        return self.newest_received

    def number(self, datagram: bytes) -> int | None:
        """The number of a 1-RTT packet of the peer's."""
        if self._receive is None:
            return None
        expected = self.newest_received + self._since_refresh + 1
        return self._receive.number(datagram, CID_LENGTH, expected)

    def frames_of(self, datagram: bytes) -> bytes:
        """The frames of an authentic 1-RTT packet of the peer's; empty if it cannot be opened."""
        self.follow_updates()
        if self._receive is None:
            return b""
        opened = self.open_received(datagram)
        return b"" if opened is None else opened[1]

    def open_received(self, datagram: bytes) -> tuple[int, bytes] | None:
        """Number and frames of a 1-RTT packet of the peer's, for traces."""
        number = self.number(datagram)
        if number is None or self._receive is None:
            return None
        opened = self._receive.open(datagram, CID_LENGTH, number)
        return None if opened is None else (number, opened)

    def open_sent(self, datagram: bytes) -> tuple[int, bytes] | None:
        """Number and frames of a 1-RTT packet of ours, for traces."""
        if self._send is None or self._peer_source is None:
            return None
        length = len(self._peer_source)
        number = self._send.number(datagram, length, self._sent_number + 1)
        opened = None if number is None else self._send.open(datagram, length, number)
        return None if number is None or opened is None else (number, opened)

    # --- handshake -----------------------------------------------------------------------------

    def crypto(self, epoch: int, data: bytes) -> None:
        """The peer's next handshake bytes.

        Raises:
            ProtocolError: the handshake failed; close with its `code`.

        """
        self.tls.receive(epoch, data)
        self._drain_tls()

    def _drain_tls(self) -> None:
        if self.peer is None and self.tls.peer_parameters is not None:
            # Before keys: a refusal must still go out under those that the peer has, too.
            self.peer = self._check_parameters(self.tls.peer_parameters)
            self.apply_parameters(self._ceiling)
        for secret in self.tls.secrets:
            early = secret.epoch == ONE_RTT and secret.direction is Direction.ENCRYPT
            if early and not self.is_client and not self.tls.done:
                self._held_back = secret
            else:
                self._install(secret)
        self.tls.secrets.clear()
        for epoch, data in self.tls.output:
            self.core.send_crypto(epoch, self._offsets[epoch], data)
            self._offsets[epoch] += len(data)
        self.tls.output.clear()
        if self.tls.done and not self.done:
            self.done = True
            if self._held_back is not None:
                self._install(self._held_back)
                self._held_back = None
            self.core.handshake_complete()
            if not self.is_client:
                self.confirmed = True

    def _install(self, secret: Secret) -> None:
        sending = secret.direction is Direction.ENCRYPT
        key, iv, hp = packet_keys(secret.suite, secret.secret)
        self.core.install_packet_key(
            "send" if sending else "receive",
            secret.epoch,
            _NAMES[secret.suite],
            key,
            iv,
            hp,
            0,
            secret.secret,
            VERSION_1,
        )
        if secret.epoch == ONE_RTT:
            if sending:
                self._send = PacketKey(secret.suite, secret.secret)
            else:
                self._receive = PacketKey(secret.suite, secret.secret)

    def _check_parameters(self, data: bytes) -> Parameters:
        parameters = Parameters.decode(data, from_client=not self.is_client)
        if parameters.initial_source != self._peer_source:
            raise ParameterError("initial_source_connection_id does not match")
        if self.is_client and parameters.original_destination != self.original:
            raise ParameterError("original_destination_connection_id does not match")
        if self.is_client and parameters.retry_source != self._retry_source:
            raise ParameterError("retry_source_connection_id does not match")
        return parameters

    def apply_parameters(self, datagram_size: int) -> None:
        """Tell the core what the peer allows, and how large datagrams may be: only ever smaller."""
        peer = self.peer
        assert peer is not None
        self.core.apply_peer_transport_parameters(
            peer.max_data,
            peer.stream_bidi_local,
            peer.stream_bidi_remote,
            peer.stream_uni,
            peer.streams_bidi,
            peer.streams_uni,
            peer.ack_delay_exponent,
            peer.max_ack_delay,
            peer.idle_timeout or None,
            None,
            peer.reset_token,
            min(peer.connection_id_limit, _OUR_IDS),
            max_udp_payload_size=max(BASE_DATAGRAM, min(datagram_size, peer.max_udp_payload)),
        )

    def confirm(self) -> None:
        """The server says HANDSHAKE_DONE."""
        self.core.handshake_confirmed()
        self.confirmed = True

    # --- sending -------------------------------------------------------------------------------

    def poll(self, now: float, most: int) -> list[bytes]:
        """Datagrams to send, at most `most`.

        Raises:
            FaultError: the core cannot build what it has to.

        """
        datagrams: list[bytes] = []
        polls = iter(partial(self.core.poll_transmit, now), None)
        try:
            datagrams.extend(map(itemgetter(0), islice(polls, most)))
        except RuntimeError as error:
            # Before the client's address is proved, a packet may not fit what may be sent.
            if self.confirmed:
                raise FaultError(str(error)) from error
        self._note_sent(datagrams)
        if self.is_client and len(datagrams) == 2 and not self.core.received_authenticated_packet:
            # Probes: the ClientHello and a PING, which is nothing that a server may hear first.
            datagrams[1] = datagrams[0]
        return datagrams

    def is_dry(self, size: int) -> bool:
        """Whether `poll` stopped because nothing waits, not because it may not be sent yet."""
        timer = self.core.get_timer()
        pacing = timer is not None and timer[0] == "pacing"
        return not pacing and self.core.congestion_window - self.core.bytes_in_flight >= size

    def _note_sent(self, datagrams: list[bytes]) -> None:
        if not datagrams:
            return
        if self.confirmed and not datagrams[0][0] & 0x80:
            # Every datagram is one 1-RTT packet.
            short = len(datagrams)
            self._last_sent = datagrams[-1]
        else:
            self._initials_sent += sum(d[0] & 0xF0 == 0xC0 for d in datagrams)
            shorts = [d for d in datagrams if not d[0] & 0x80]
            short = len(shorts)
            if shorts:
                self._last_sent = shorts[-1]
        self._sent_number += short
        self._since_update += short
        if self._since_update >= self._limits.key_update_packets:
            self._update_key()

    def _update_key(self) -> None:
        try:
            self.core.request_key_update()
        except (RuntimeError, ValueError):  # the last one is not acknowledged yet
            return
        self._since_update = 0

    def seal(self, frames: bytes, *, size: int = 0) -> bytes | None:
        """A 1-RTT packet of our own with `frames`, padded to `size` bytes; to be sent now.

        Only when `poll` has nothing left.  None: there are no keys yet.
        """
        self.follow_updates()
        if self._send is None or self._peer_source is None:
            return None
        length = len(self._peer_source)
        destination, number = self._peer_source, 0
        if self._last_sent is not None:
            last = self._send.number(self._last_sent, length, self._sent_number + 1)
            if last is None:
                return None
            destination, number = self._last_sent[1 : 1 + length], last + 1
        self.core.restore_send_packet_number(_APPLICATION_SPACE, number + 1)
        padding = max(size - (1 + length + 4 + len(frames) + 16), 4 - len(frames), 0)
        packet = self._send.seal(destination, number, frames + padding * _PADDING)
        self._last_sent, self._sent_number = packet, number
        return packet

    def follow_updates(self) -> None:
        """Bring our copies of the keys to the core's generation: after every input.

        The core may go one ahead between two calls, never two: the peer must have acknowledged one
        first.
        """
        for key, phase in (
            (self._send, self.core.send_key_phase),
            (self._receive, self.core.receive_key_phase),
        ):
            if key is not None and phase is not None and key.phase != phase:
                key.update()

    def close(self, code: int, frame_type: int | None, reason: str) -> None:
        """Begin to close; `frame_type` None: with a code of the application's."""
        self.core.close(code, frame_type, reason.encode())

    def fail(self, error: ProtocolError) -> None:
        """Close because of what the peer did in the handshake."""
        code = TransportCode.INTERNAL_ERROR if error.code is None else error.code
        self.core.close(code, _CRYPTO_FRAME, b"")

    def events(self) -> Iterator[tuple[Any, ...]]:
        """The core's events, taken one by one: (kind, …)."""
        while (event := self.core.next_event()) is not None:
            yield event


class VersionError(RemoteProtocolError):
    """There is no version in common."""


def _core_window(limits: Limits) -> int:
    """The core's connection window: the other half of ours is for what it has handed out."""
    return limits.connection_window // 2
