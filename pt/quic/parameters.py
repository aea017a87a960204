"""Transport parameters: what each side tells the other inside TLS (RFC 9000, section 18).

A sequence of (id, length, value); unknown ones are skipped.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from pt.errors import RemoteProtocolError
from pt.quic.codes import TransportCode
from pt.quic.limits import BASE_DATAGRAM
from pt.quic.packets import MAX_CID, RESET_TOKEN, put_varint, read_varint

__all__ = ["ParameterError", "Parameters"]

_ORIGINAL_DESTINATION: Final = 0x00
_IDLE_TIMEOUT: Final = 0x01
_RESET_TOKEN: Final = 0x02
_MAX_UDP_PAYLOAD: Final = 0x03
_MAX_DATA: Final = 0x04
_BIDI_LOCAL: Final = 0x05
_BIDI_REMOTE: Final = 0x06
_UNI: Final = 0x07
_STREAMS_BIDI: Final = 0x08
_STREAMS_UNI: Final = 0x09
_ACK_DELAY_EXPONENT: Final = 0x0A
_MAX_ACK_DELAY: Final = 0x0B
_NO_MIGRATION: Final = 0x0C
_PREFERRED_ADDRESS: Final = 0x0D
_CID_LIMIT: Final = 0x0E
_INITIAL_SOURCE: Final = 0x0F
_RETRY_SOURCE: Final = 0x10

_SERVERS: Final = frozenset(
    {_ORIGINAL_DESTINATION, _RESET_TOKEN, _PREFERRED_ADDRESS, _RETRY_SOURCE}
)
_MAX_STREAMS: Final = 1 << 60


class ParameterError(RemoteProtocolError):
    """The peer's parameters break a rule; `code` is TRANSPORT_PARAMETER_ERROR."""

    def __init__(self, message: str) -> None:
        super().__init__(message, TransportCode.TRANSPORT_PARAMETER_ERROR)


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameters:
    """Those that we use; the defaults are the RFC's for absent ones.  Times are in seconds."""

    idle_timeout: float = 0.0
    """0: none."""
    max_udp_payload: int = 65527
    max_data: int = 0
    stream_bidi_local: int = 0
    """Window of streams that the sender of these parameters opens."""
    stream_bidi_remote: int = 0
    """Window of streams that the receiver opens."""
    stream_uni: int = 0
    streams_bidi: int = 0
    streams_uni: int = 0
    ack_delay_exponent: int = 3
    max_ack_delay: float = 0.025
    connection_id_limit: int = 2
    initial_source: bytes | None = None
    original_destination: bytes | None = None
    retry_source: bytes | None = None
    reset_token: bytes | None = None

    def encode(self) -> bytes:
        """The bytes of the TLS extension."""
        out = bytearray()
        defaults = Parameters()
        for number, name in _INTEGERS.items():
            value = getattr(self, name)
            if value != getattr(defaults, name):
                if name in _SECONDS:
                    value = round(value * 1000)
                _put(out, number, put_varint(value))
        for number, name in _BYTES.items():
            data = getattr(self, name)
            if data is not None:
                _put(out, number, data)
        return bytes(out)

    @classmethod
    def decode(cls, data: bytes, *, from_client: bool) -> Parameters:
        """Parse and check what the peer sent.

        Raises:
            ParameterError: malformed, out of range, twice, or a server's from a client.

        """
        found: dict[str, object] = {}
        seen: set[int] = set()
        at = 0
        while at < len(data):
            try:
                number, at = read_varint(data, at)
                length, at = read_varint(data, at)
            except IndexError:
                raise ParameterError("transport parameters are cut off") from None
            value = data[at : at + length]
            at += length
            if len(value) < length or number in seen:
                raise ParameterError(f"transport parameter {number:#x} is cut off, or there twice")
            seen.add(number)
            if from_client and number in _SERVERS:
                raise ParameterError(f"transport parameter {number:#x} is not a client's to send")
            if (name := _INTEGERS.get(number)) is not None:
                amount = _integer(number, value)
                found[name] = min(amount, 1 << 40) / 1000 if name in _SECONDS else amount
            elif (name := _BYTES.get(number)) is not None:
                found[name] = value
        parameters = cls(**found)  # type: ignore[arg-type]  # names and types are the tables'
        parameters._check()
        return parameters

    def _check(self) -> None:
        for name, value, low, high in (
            ("max_udp_payload_size", self.max_udp_payload, BASE_DATAGRAM, 1 << 62),
            ("ack_delay_exponent", self.ack_delay_exponent, 0, 20),
            ("max_ack_delay", self.max_ack_delay, 0, (1 << 14) / 1000 - 0.0005),
            ("active_connection_id_limit", self.connection_id_limit, 2, 1 << 62),
            ("initial_max_streams_bidi", self.streams_bidi, 0, _MAX_STREAMS),
            ("initial_max_streams_uni", self.streams_uni, 0, _MAX_STREAMS),
        ):
            if not low <= value <= high:
                raise ParameterError(f"transport parameter {name} is {value}")
        if self.reset_token is not None and len(self.reset_token) != RESET_TOKEN:
            raise ParameterError("a stateless reset token has 16 bytes")
        for cid in (self.initial_source, self.original_destination, self.retry_source):
            if cid is not None and len(cid) > MAX_CID:
                raise ParameterError("a connection id has at most 20 bytes")


_SECONDS: Final = frozenset({"idle_timeout", "max_ack_delay"})
_INTEGERS: Final = {
    _IDLE_TIMEOUT: "idle_timeout",
    _MAX_UDP_PAYLOAD: "max_udp_payload",
    _MAX_DATA: "max_data",
    _BIDI_LOCAL: "stream_bidi_local",
    _BIDI_REMOTE: "stream_bidi_remote",
    _UNI: "stream_uni",
    _STREAMS_BIDI: "streams_bidi",
    _STREAMS_UNI: "streams_uni",
    _ACK_DELAY_EXPONENT: "ack_delay_exponent",
    _MAX_ACK_DELAY: "max_ack_delay",
    _CID_LIMIT: "connection_id_limit",
}
_BYTES: Final = {
    _ORIGINAL_DESTINATION: "original_destination",
    _RESET_TOKEN: "reset_token",
    _INITIAL_SOURCE: "initial_source",
    _RETRY_SOURCE: "retry_source",
}


def _put(out: bytearray, number: int, value: bytes) -> None:
    out += put_varint(number) + put_varint(len(value)) + value


def _integer(number: int, value: bytes) -> int:
    try:
        amount, end = read_varint(value, 0)
    except IndexError:
        end = -1
        amount = 0
    if end != len(value):
        raise ParameterError(f"transport parameter {number:#x} is not an integer")
    return amount
