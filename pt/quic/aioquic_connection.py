"""aioquic's connection with what it lacks: consumption-driven windows, idle streams, PMTU probes.

As it comes, it doubles windows when data *arrives*, and looks at every open stream for every packet
it builds.  Here windows move when the owner says so, and only streams with something to send are
looked at.  The parts that are replaced are private to aioquic: the contract suite holds them.
"""

from __future__ import annotations

from hmac import compare_digest
from typing import Final

from aioquic import tls
from aioquic.buffer import Buffer  # type: ignore[attr-defined]  # re-exported from C
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import (
    CONNECTION_LIMIT_FRAME_CAPACITY,
    MAX_STREAM_DATA_FRAME_CAPACITY,
    Limit,
    NetworkAddress,
    QuicConnectionId,
    QuicConnectionState,
    QuicNetworkPath,
    QuicReceiveContext,
)
from aioquic.quic.events import ConnectionTerminated
from aioquic.quic.packet import QuicFrameType, QuicPacketType
from aioquic.quic.packet_builder import QuicDeliveryState, QuicPacketBuilder
from aioquic.quic.recovery import QuicPacketSpace
from aioquic.quic.stream import QuicStream, QuicStreamSender

from pt.quic.aioquic_paths import PathValidation
from pt.quic.aioquic_streams import Recovery, Sender, Streams, busy
from pt.quic.engine import Admission, Config
from pt.quic.packets import CID_LENGTH, RESET_TOKEN, reset_token
from pt.quic.tls import Context, Verify

__all__ = ["Connection"]

_SPARE_IDS: Final = 8
CLOSE_SIZE: Final = 512
"""Bytes of a CONNECTION_CLOSE in all packets that a handshake has, generously."""


class Connection(PathValidation):
    """One connection; `moved` and `over` tell its owner about streams."""

    def __init__(
        self,
        configuration: QuicConfiguration,
        config: Config,
        verify: Verify,
        admission: Admission | None,
    ) -> None:
        retried = admission is not None and admission.destination != admission.original_destination
        super().__init__(
            configuration=configuration,
            original_destination_connection_id=(
                None if admission is None else admission.original_destination
            ),
            retry_source_connection_id=(
                admission.destination if admission is not None and retried else None
            ),
        )
        self._loss = self.recovery = Recovery(
            congestion_control_algorithm=configuration.congestion_control_algorithm,
            initial_rtt=configuration.initial_rtt,
            max_datagram_size=configuration.max_datagram_size,
            peer_completed_address_validation=admission is not None,
            quic_logger=self._quic_logger,
            send_probe=self._send_probe,
        )
        self.recovery.use_our_pacer(configuration.max_datagram_size)
        self.config = config
        self.verify = verify
        self.admitted: NetworkAddress | None = None
        """An address that a token has proved."""
        self.freed = 0
        """Received bytes of which nothing is held any more; moves the connection's window."""
        self._table = Streams()
        self._streams = self._table
        self._queued: set[QuicStream] = set()
        self.moved: set[int] = set()
        """Streams sent from, or whose window at the peer has moved; the owner takes them out."""
        self._key_since = 0  # the first packet under the present key
        self.probe_outcomes: list[tuple[int, bool]] = []
        first = self._new_id(0)
        first.was_sent = True
        self._host_cids = [first]
        self.host_cid = first.cid
        self._local_initial_source_connection_id = first.cid
        for limit, value in (
            (self._local_max_streams_bidi, config.limits.streams),
            (self._local_max_streams_uni, 0),
        ):
            limit.value = limit.sent = value

    # --- what the owner asks -------------------------------------------------------------------

    @property
    def context(self) -> Context:
        """Our TLS context."""
        assert isinstance(self.tls, Context)
        return self.tls

    @property
    def over(self) -> bool:
        """Whether the connection is closed, or about to be."""
        return self._close_event is not None

    @property
    def closing(self) -> bool:
        """Whether we have sent CONNECTION_CLOSE, and wait in case it is lost."""
        return self._state is QuicConnectionState.CLOSING

    @property
    def draining(self) -> bool:
        """Whether the peer closed."""
        return self._state is QuicConnectionState.DRAINING

    @property
    def may_close(self) -> bool:
        """Whether a CONNECTION_CLOSE would go to a client that is there, and not amplify.

        aioquic sends it in any case.
        """
        heard = self._is_client or self._state is not QuicConnectionState.FIRSTFLIGHT
        return heard and self.path.can_send(CLOSE_SIZE)

    @property
    def pacing_at(self) -> float | None:
        """When pacing lets more go."""
        return self._pacing_at

    @property
    def rtt(self) -> float | None:
        """Smoothed round trip, once there is a sample."""
        return self._loss._rtt_smoothed if self._loss._rtt_initialized else None

    @property
    def timeouts(self) -> int:
        """Probe timeouts in a row."""
        return self._loss._pto_count

    @property
    def heard(self) -> float | None:
        """When the peer was heard last, after the handshake."""
        space = self._spaces.get(tls.Epoch.ONE_RTT)
        return None if space is None else space.largest_received_time

    @property
    def close_cause(self) -> ConnectionTerminated | None:
        """Why the connection is `over`."""
        return self._close_event

    @property
    def confirmed(self) -> bool:
        """Whether the handshake is confirmed (RFC 9001, section 4.1.2)."""
        return self._handshake_confirmed

    @property
    def streams_left(self) -> int:
        """How many streams the peer lets us open."""
        return max(0, self._remote_max_streams_bidi - self._local_next_stream_id_bidi // 4)

    def sender(self, stream_id: int) -> QuicStreamSender | None:
        """The sending half of a stream that is not over."""
        stream = self._table.get(stream_id)
        return None if stream is None else stream.sender

    def allowed(self, stream_id: int) -> int:
        """Bytes that the peer's window takes beyond what a stream was given to send."""
        stream = self._table.get(stream_id)
        if stream is None:
            return 0
        return stream.max_stream_data_remote - stream.sender._buffer_stop

    def final_size(self, stream_id: int) -> int:
        """How far a stream has come that the peer reset."""
        stream = self._table.get(stream_id)
        return 0 if stream is None else stream.receiver.highest_offset

    def streams_over(self) -> list[int]:
        """Streams of which both directions are over, since the last call."""
        over = self._table.over
        self._table.over = []
        return over

    def move_window(self, stream_id: int, limit: int) -> None:
        """Let the peer send up to `limit` on a stream."""
        stream = self._table.get(stream_id)
        if stream is not None and limit > stream.max_stream_data_local:
            stream.max_stream_data_local = limit
            self._table.moved[stream_id] = stream

    def is_stateless_reset(self, datagram: bytes) -> bool:
        """Whether the peer, having lost its state, ends the connection with this datagram."""
        token = datagram[-RESET_TOKEN:]
        known = [self._peer_cid, *self._peer_cid_available]
        return any(compare_digest(cid.stateless_reset_token or b"", token) for cid in known)

    def drop(self) -> None:
        """End without a word."""
        if self._close_event is None:
            self._close_event = ConnectionTerminated(0, QuicFrameType.PADDING, "")
        self._close_end()

    def set_datagram_size(self, size: int) -> None:
        """Build datagrams of up to `size` bytes."""
        self._max_datagram_size = size
        self._loss._pacer._max_datagram_size = size
        self._loss._cc._max_datagram_size = size  # type: ignore[attr-defined]

    def update_key_when_due(self) -> None:
        """Take new keys before the old ones have sealed too many packets."""
        if (
            self._handshake_confirmed
            and self._packet_number - self._key_since >= self.config.limits.key_update_packets
            and self._spaces[tls.Epoch.ONE_RTT].largest_acked_packet >= self._key_since
        ):
            self.request_key_update()
            self._key_since = self._packet_number

    def probe(self, size: int, now: float) -> list[tuple[bytes, NetworkAddress]]:
        """A datagram of exactly `size` bytes; `probe_outcomes` tells whether it arrived."""
        if self._close_event is not None or not self.path.is_validated:
            self.probe_outcomes.append((size, False))
            return []
        assert self._version is not None
        builder = QuicPacketBuilder(
            host_cid=self.host_cid,
            is_client=self._is_client,
            max_datagram_size=size,
            packet_number=self._packet_number,
            peer_cid=self._peer_cid.cid,
            quic_logger=self._quic_logger,
            spin_bit=self._spin_bit,
            version=self._version,
        )
        builder.start_packet(QuicPacketType.ONE_RTT, self._cryptos[tls.Epoch.ONE_RTT])
        builder.start_frame(QuicFrameType.PING, handler=self._on_probe, handler_args=(size,))
        builder._datagram_needs_padding = True
        # Losing it says nothing about congestion (RFC 9000, section 14.4): it is not in flight.
        assert builder._packet is not None
        packet = builder._packet
        builder._end_packet()
        packet.in_flight = False
        return self._flush_builder(
            builder=builder, network_path=self.path, peer_cid=self._peer_cid.cid, now=now
        )

    def _on_probe(self, delivery: QuicDeliveryState, size: int) -> None:
        self.probe_outcomes.append((size, delivery is QuicDeliveryState.ACKED))

    # --- what is replaced ----------------------------------------------------------------------

    def _initialize(self, peer_cid: bytes) -> None:
        super()._initialize(peer_cid)
        context = Context(
            is_client=self._is_client,
            certificate=self.config.certificate,
            verify=self.verify,
            limit=self.config.limits.handshake_bytes,
        )
        context.handshake_extensions = self.tls.handshake_extensions
        context.alpn_cb = self.tls.alpn_cb
        context.update_traffic_key_cb = self.tls.update_traffic_key_cb
        self.tls = context

    def _update_traffic_key(
        self,
        direction: tls.Direction,
        epoch: tls.Epoch,
        cipher_suite: tls.CipherSuite,
        secret: bytes,
    ) -> None:
        if epoch is tls.Epoch.ONE_RTT:
            self.context.export()
        super()._update_traffic_key(direction, epoch, cipher_suite, secret)

    def _find_network_path(self, addr: NetworkAddress) -> QuicNetworkPath:
        path = super()._find_network_path(addr)
        if addr == self.admitted:
            path.is_validated = True
        return path

    def _new_id(self, sequence: int) -> QuicConnectionId:
        cid = self.config.random(CID_LENGTH)
        return QuicConnectionId(
            cid=cid,
            sequence_number=sequence,
            # A client's first id has no token: there is no field for it.
            stateless_reset_token=(
                None  # type: ignore[arg-type]
                if self._is_client and not sequence
                else reset_token(self.config.reset_key, cid)
            ),
        )

    def _replenish_connection_ids(self) -> None:
        limit = min(_SPARE_IDS, self._remote_active_connection_id_limit)
        while len(self._host_cids) < limit:
            self._host_cids.append(self._new_id(self._host_cid_seq))
            self._host_cid_seq += 1

    def _get_or_create_stream(self, frame_type: int, stream_id: int) -> QuicStream:
        before = self._local_max_streams_bidi.used
        stream = super()._get_or_create_stream(frame_type, stream_id)
        for ordinal in range(before, self._local_max_streams_bidi.used):
            self._adopt(self._table[ordinal * 4 + int(self._is_client)])
        return stream

    def _get_or_create_stream_for_send(self, stream_id: int) -> QuicStream:
        known = stream_id in self._table
        stream = super()._get_or_create_stream_for_send(stream_id)
        if not known:
            self._adopt(stream)
        return stream

    def _adopt(self, stream: QuicStream) -> None:
        number = stream.stream_id
        assert number is not None
        sender = Sender(stream_id=number, writable=True)
        sender.wake = lambda: self.wake(stream)
        sender.sent = lambda: self.moved.add(number)
        stream.sender = sender
        self._queued.add(stream)

    def wake(self, stream: QuicStream) -> None:
        """Have the next packets look at a stream."""
        if stream not in self._queued and stream.stream_id in self._table:
            self._queued.add(stream)
            self._streams_queue.append(stream)

    def wake_id(self, stream_id: int) -> None:
        """The same by id."""
        stream = self._table.get(stream_id)
        if stream is not None:
            self.wake(stream)

    def _handle_max_stream_data_frame(
        self, context: QuicReceiveContext, frame_type: int, buf: Buffer
    ) -> None:
        at = buf.tell()
        self.moved.add(buf.pull_uint_var())
        buf.seek(at)
        super()._handle_max_stream_data_frame(context, frame_type, buf)

    def _handle_stream_frame(
        self, context: QuicReceiveContext, frame_type: int, buf: Buffer
    ) -> None:
        events = len(self._events)
        super()._handle_stream_frame(context, frame_type, buf)
        if frame_type & 1 or len(self._events) > events:
            self._wake_if_over()

    def _handle_reset_stream_frame(
        self, context: QuicReceiveContext, frame_type: int, buf: Buffer
    ) -> None:
        super()._handle_reset_stream_frame(context, frame_type, buf)
        self._wake_if_over()

    def _wake_if_over(self) -> None:
        """A stream whose last bytes have come may be finished, which the send loop notices."""
        if self._events:
            stream = self._table.get(getattr(self._events[-1], "stream_id", -1))
            if stream is not None and stream.is_finished:
                self.wake(stream)

    def _write_application(
        self, builder: QuicPacketBuilder, network_path: QuicNetworkPath, now: float
    ) -> None:
        held: list[QuicStream] = []
        if self.is_short_of_credit(network_path):
            held, self._streams_queue = self._streams_queue, held
        try:
            super()._write_application(builder, network_path, now)
        finally:
            queue = [*held, *self._streams_queue]
            self._streams_queue = [stream for stream in queue if busy(stream)]
            self._queued = set(self._streams_queue)
            if not self._streams_queue:
                self.recovery.application_limited()

    def _write_connection_limits(self, builder: QuicPacketBuilder, space: QuicPacketSpace) -> None:
        window = self.config.limits.connection_window
        data = self._local_max_data
        if self.freed + window - data.value >= window // 2:
            data.value = self.freed + window
        for limit in (data, self._local_max_streams_bidi):
            if self._limit_is_due(limit):
                buf = builder.start_frame(
                    limit.frame_type,
                    capacity=CONNECTION_LIMIT_FRAME_CAPACITY,
                    handler=self._on_connection_limit_delivery,
                    handler_args=(limit,),
                )
                buf.push_uint_var(limit.value)
                limit.sent = limit.value
                self._log_frame(
                    builder,
                    "encode_connection_limit_frame",
                    frame_type=limit.frame_type,
                    maximum=limit.value,
                )

    def _limit_is_due(self, limit: Limit) -> bool:
        if limit.value == limit.sent:
            return False
        # MAX_STREAMS in batches: when the peer has fewer left than the update would grant.
        return limit is self._local_max_data or limit.sent - limit.used < limit.value - limit.sent

    def _write_stream_limits(
        self, builder: QuicPacketBuilder, space: QuicPacketSpace, stream: QuicStream
    ) -> None:
        assert stream.stream_id is not None
        if stream.max_stream_data_local_sent != stream.max_stream_data_local:
            buf = builder.start_frame(
                QuicFrameType.MAX_STREAM_DATA,
                capacity=MAX_STREAM_DATA_FRAME_CAPACITY,
                handler=self._on_max_stream_data_delivery,
                handler_args=(stream,),
            )
            buf.push_uint_var(stream.stream_id)
            buf.push_uint_var(stream.max_stream_data_local)
            stream.max_stream_data_local_sent = stream.max_stream_data_local
            self._log_frame(
                builder,
                "encode_max_stream_data_frame",
                maximum=stream.max_stream_data_local,
                stream_id=stream.stream_id,
            )
        self._table.moved.pop(stream.stream_id, None)

    def _log_frame(self, builder: QuicPacketBuilder, encoder: str, **facts: object) -> None:
        if self._quic_logger is not None and builder.quic_logger_frames is not None:
            builder.quic_logger_frames.append(getattr(self._quic_logger, encoder)(**facts))

    def _on_max_stream_data_delivery(self, delivery: QuicDeliveryState, stream: QuicStream) -> None:
        super()._on_max_stream_data_delivery(delivery, stream)
        assert stream.stream_id is not None
        if delivery is not QuicDeliveryState.ACKED and stream.stream_id in self._table:
            self._table.moved[stream.stream_id] = stream
