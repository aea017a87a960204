"""Identify: what a peer says about itself, in one or more length-delimited messages.

    Identify { publicKey = 1: bytes, listenAddrs = 2*: bytes, protocols = 3*: string,
               observedAddr = 4: bytes, protocolVersion = 5: string, agentVersion = 6: string,
               signedPeerRecord = 8: bytes }

A receiver merges messages until the end of the stream: repeated fields append, others overwrite.
The messages of a push are the same.

Source: libp2p specs `identify/README.md`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from pt.errors import CryptoFailure, LimitError, LocalProtocolError, RemoteProtocolError
from pt.identity.keys import PublicKey
from pt.identity.peer_id import PeerId
from pt.identity.peer_record import PeerRecord
from pt.wire import protobuf, uvarint
from pt.wire.multiaddr import Multiaddr, MultiaddrError

__all__ = [
    "MAX_ADDRESSES",
    "MAX_MESSAGE",
    "MAX_MESSAGES",
    "MAX_PROTOCOLS",
    "PROTOCOL",
    "PUSH_PROTOCOL",
    "SPLIT_AT",
    "Identify",
    "IdentifyReader",
]

PROTOCOL: Final = "/ipfs/id/1.0.0"
PUSH_PROTOCOL: Final = "/ipfs/id/push/1.0.0"

MAX_MESSAGE: Final = 8192  # bytes without the length: what Go and js read
MAX_MESSAGES: Final = 10  # as Go
MAX_ADDRESSES: Final = 500  # as Go; further ones are ignored
MAX_PROTOCOLS: Final = 1024  # as Go; further ones are ignored
SPLIT_AT: Final = 2048  # bytes: our own messages stay under it, rust refuses 4096
MAX_SENT_RECORD: Final = 4000  # bytes: a longer record cannot reach every implementation

_PUBLIC_KEY: Final = 1
_LISTEN_ADDRESS: Final = 2
_PROTOCOL: Final = 3
_OBSERVED: Final = 4
_PROTOCOL_VERSION: Final = 5
_AGENT_VERSION: Final = 6
_SIGNED_RECORD: Final = 8
_SINGLE: Final = (_PUBLIC_KEY, _OBSERVED, _PROTOCOL_VERSION, _AGENT_VERSION, _SIGNED_RECORD)


@dataclass(frozen=True, slots=True, kw_only=True)
class Identify:
    """`public_key` is a PublicKey protobuf, `signed_record` an envelope; b"" and None: not said.

    Received values are what the peer claims; only `verified` makes them trustworthy.
    """

    public_key: bytes = b""
    listen_addresses: tuple[Multiaddr, ...] = ()
    protocols: tuple[str, ...] = ()
    observed: Multiaddr | None = None
    protocol_version: str = ""
    agent_version: str = ""
    signed_record: bytes = b""

    def encode(self) -> bytes:
        """The delimited messages, each under 2 KiB but for a long signed record.

        The record travels alone in the last message, and not at all when it exceeds 4000 bytes.

        Raises:
            LocalProtocolError: there is more than the limits of receivers allow.

        """
        fields = list(self._fields())
        if self.signed_record and len(self.signed_record) <= MAX_SENT_RECORD:
            record = [protobuf.put_bytes(_SIGNED_RECORD, self.signed_record)]
        else:
            record = []
        if len(self.listen_addresses) > MAX_ADDRESSES or len(self.protocols) > MAX_PROTOCOLS:
            raise LocalProtocolError("too many addresses or protocols for identify")
        if record and sum(map(len, fields)) + len(record[0]) <= SPLIT_AT:
            fields, record = fields + record, []
        messages = [*_pack(fields), *record]
        if len(messages) > MAX_MESSAGES or any(len(m) > MAX_MESSAGE for m in messages):
            raise LocalProtocolError("too much to say in identify: shorten the address list")
        return b"".join(uvarint.prefix(message) for message in messages)

    def verified(self, peer: PeerId) -> Identify:
        """The same, once it is certain that it speaks of `peer`, the connection's other end.

        The addresses of a signed record, being proven, replace `listen_addresses`.

        Raises:
            CryptoFailure: the public key or the signed record is another peer's, or forged.
            RemoteProtocolError: one of them is malformed.

        """
        if self.public_key:
            key = PublicKey.from_protobuf(self.public_key)
            if PeerId.from_public_key(key) != peer:
                raise CryptoFailure("the key in identify is not that of the connection's peer")
        if not self.signed_record:
            return self
        record = PeerRecord.from_envelope(self.signed_record)
        if record.peer_id != peer:
            raise CryptoFailure("the signed record in identify is not the connection's peer's")
        return Identify(
            public_key=self.public_key,
            listen_addresses=tuple(record.addresses[:MAX_ADDRESSES]),
            protocols=self.protocols,
            observed=self.observed,
            protocol_version=self.protocol_version,
            agent_version=self.agent_version,
            signed_record=self.signed_record,
        )

    def _fields(self) -> Iterable[bytes]:
        if self.public_key:
            yield protobuf.put_bytes(_PUBLIC_KEY, self.public_key)
        for address in self.listen_addresses:
            yield protobuf.put_bytes(_LISTEN_ADDRESS, address.encode())
        for protocol in self.protocols:
            yield protobuf.put_text(_PROTOCOL, protocol)
        if self.observed is not None:
            yield protobuf.put_bytes(_OBSERVED, self.observed.encode())
        if self.protocol_version:
            yield protobuf.put_text(_PROTOCOL_VERSION, self.protocol_version)
        if self.agent_version:
            yield protobuf.put_text(_AGENT_VERSION, self.agent_version)


class IdentifyReader:
    """Merges the messages of one stream; feed it, then ask for the result at the end of stream.

    Addresses that do not parse, also of kinds unknown here, are dropped one by one.
    """

    __slots__ = ("_addresses", "_in", "_messages", "_protocols", "_single")

    def __init__(self) -> None:
        self._in = bytearray()
        self._messages = 0
        self._addresses: list[Multiaddr] = []
        self._protocols: list[str] = []
        self._single: dict[int, bytes] = {}

    def receive_data(self, data: bytes | memoryview) -> None:
        """Take bytes from the peer, split in any way.

        Raises:
            LimitError: a message is too long, or there are too many.
            RemoteProtocolError: a message is malformed.

        """
        self._in += data
        while self._in:
            try:
                size, start = uvarint.decode(self._in)
            except uvarint.Incomplete:
                return
            if size > MAX_MESSAGE:
                raise LimitError(f"an identify message of {size} bytes, over {MAX_MESSAGE}")
            if len(self._in) < start + size:
                return
            if self._messages == MAX_MESSAGES:
                raise LimitError(f"more than {MAX_MESSAGES} identify messages")
            self._messages += 1
            message = bytes(self._in[start : start + size])
            del self._in[: start + size]
            self._merge(message)

    def finish(self) -> Identify:
        """What the peer said in all; call it at the end of the stream.

        Raises:
            RemoteProtocolError: the stream ended within a message, or before the first.

        """
        if self._in or not self._messages:
            raise RemoteProtocolError("the peer's identify was cut short")
        observed = self._single.get(_OBSERVED)
        return Identify(
            public_key=self._single.get(_PUBLIC_KEY, b""),
            listen_addresses=tuple(self._addresses),
            protocols=tuple(self._protocols),
            observed=_address(observed) if observed else None,
            protocol_version=self._text(_PROTOCOL_VERSION),
            agent_version=self._text(_AGENT_VERSION),
            signed_record=self._single.get(_SIGNED_RECORD, b""),
        )

    def _merge(self, message: bytes) -> None:
        said = protobuf.Fields(message)
        for raw in said.all_bytes(_LISTEN_ADDRESS):
            if len(self._addresses) < MAX_ADDRESSES and (address := _address(raw)) is not None:
                self._addresses.append(address)
        self._protocols += said.all_texts(_PROTOCOL)[: MAX_PROTOCOLS - len(self._protocols)]
        for field in _SINGLE:
            if (value := said.bytes(field)) is not None:
                self._single[field] = value

    def _text(self, field: int) -> str:
        try:
            return self._single.get(field, b"").decode()
        except UnicodeDecodeError as error:
            raise RemoteProtocolError("a text in identify is not UTF-8") from error


def _pack(fields: list[bytes]) -> list[bytes]:
    """Whole fields, in order, in as few messages of at most SPLIT_AT bytes as that allows."""
    messages: list[bytes] = []
    current = b""
    for field in fields:
        if current and len(current) + len(field) > SPLIT_AT:
            messages.append(current)
            current = b""
        current += field
    return [*messages, current]


def _address(value: bytes) -> Multiaddr | None:
    if not value:
        return None
    try:
        return Multiaddr.decode(value)
    except MultiaddrError:
        return None
