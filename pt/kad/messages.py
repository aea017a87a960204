"""Messages of kad-dht: one kind for requests and replies, each preceded by its length as a uvarint.

    Message{type=1: enum, key=2: bytes, record=3?: Record, closerPeers=8*: Peer,
            providerPeers=9*: Peer, clusterLevelRaw=10: int32}
    Record{key=1: bytes, value=2: bytes, timeReceived=5?: string}
    Peer{id=1: bytes, addrs=2*: bytes, connection=3: enum}

Of these a client needs neither `timeReceived` nor `connection`, which are skipped, and sends
`clusterLevelRaw` as 1 because Go does. Decoding is lenient where implementations differ: an
address, a peer or a field that cannot be read costs itself alone.

Whoever fills a server with providers of one key makes its replies long. Such a reply is not lost:
of one that exceeds MAX_MESSAGE the beginning is read, up to the last peer that is whole.

Source: libp2p specs `kad-dht/README.md`; go-libp2p-kad-dht for what the text leaves open.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Final

from pt.errors import LocalProtocolError, RemoteProtocolError
from pt.identity.peer_id import PeerId
from pt.wire import protobuf, uvarint
from pt.wire.multiaddr import Multiaddr, MultiaddrError

__all__ = [
    "MAX_ADDRESSES",
    "MAX_KEY",
    "MAX_MESSAGE",
    "MAX_PEERS",
    "MAX_SAID",
    "MAX_VALUE",
    "PROTOCOL",
    "KadMessageError",
    "Message",
    "MessageReader",
    "MessageType",
    "PeerInfo",
    "Record",
]

PROTOCOL: Final = "/ipfs/kad/1.0.0"

MAX_MESSAGE: Final = 64 * 1024
"""Bytes of a message that are read; what we ask for is a tenth of it."""
MAX_SAID: Final = 4 * 1024 * 1024
"""Longest message of anybody, as Go's."""
MAX_PEERS: Final = 40  # of each list of a reply; further ones are ignored, as Go does (2k)
MAX_ADDRESSES: Final = 16  # of a peer; further ones are ignored
MAX_KEY: Final = 80  # bytes, as Go servers
MAX_VALUE: Final = 10 * 1024  # bytes, the longest IPNS record

_CLUSTER_LEVEL: Final = protobuf.put_uint(10, 1)


class KadMessageError(RemoteProtocolError):
    """The peer's message is malformed or too long, or is no answer to what was asked."""


class MessageType(IntEnum):
    """What is asked; the reply to a request has the same type."""

    PUT_VALUE = 0
    GET_VALUE = 1
    ADD_PROVIDER = 2
    GET_PROVIDERS = 3
    FIND_NODE = 4
    PING = 5


@dataclass(frozen=True, slots=True)
class PeerInfo:
    """A peer and where it is said to be; nothing of it is verified."""

    id: PeerId
    addresses: tuple[Multiaddr, ...] = ()

    def encode(self) -> bytes:
        """The embedded message."""
        addresses = (protobuf.put_bytes(2, address.encode()) for address in self.addresses)
        return protobuf.put_bytes(1, self.id.raw) + b"".join(addresses)

    @classmethod
    def decode(cls, body: bytes) -> PeerInfo:
        """Read the embedded message; at most MAX_ADDRESSES addresses, each once.

        An address that ends with the peer's own /p2p is shortened by it; one of somebody else is
        dropped.

        Raises:
            KadMessageError: malformed, or without a peer id.

        """
        try:
            fields = protobuf.Fields(body)
            peer_id = PeerId(fields.bytes(1) or b"")
        except RemoteProtocolError as error:
            raise KadMessageError(f"a malformed peer: {error}") from error
        return cls(peer_id, _addresses(fields.all_bytes(2), peer_id))


@dataclass(frozen=True, slots=True)
class Record:
    """A value under its key, as a server stores it."""

    key: bytes
    value: bytes

    def encode(self) -> bytes:
        """The embedded message."""
        return protobuf.put_bytes(1, self.key) + protobuf.put_bytes(2, self.value)

    @classmethod
    def decode(cls, body: bytes) -> Record:
        """Read the embedded message; what is absent is empty.

        Raises:
            ProtobufError: malformed.

        """
        fields = protobuf.Fields(body)
        return cls(fields.bytes(1) or b"", fields.bytes(2) or b"")


@dataclass(frozen=True, slots=True)
class Message:
    """A request or a reply; a type unknown here stays a number.

    `size` is what a decoded message took on the wire, in bytes with its length; `overhead` what the
    exchange took besides its two messages, which whoever made it may say.
    """

    type: MessageType | int
    key: bytes = b""
    record: Record | None = None
    closer: tuple[PeerInfo, ...] = ()
    providers: tuple[PeerInfo, ...] = ()
    size: int = field(default=0, compare=False)
    overhead: int = field(default=0, compare=False)

    def encode(self) -> bytes:
        """The message with its length before it.

        Raises:
            LocalProtocolError: it is longer than MAX_MESSAGE.

        """
        parts = [protobuf.put_uint(1, self.type)] if self.type else []
        if self.key:
            parts.append(protobuf.put_bytes(2, self.key))
        if self.record is not None:
            parts.append(protobuf.put_bytes(3, self.record.encode()))
        parts += [protobuf.put_bytes(8, peer.encode()) for peer in self.closer]
        parts += [protobuf.put_bytes(9, peer.encode()) for peer in self.providers]
        body = b"".join((*parts, _CLUSTER_LEVEL))
        if len(body) > MAX_MESSAGE:
            raise LocalProtocolError(f"a kad message of {len(body)} bytes, over {MAX_MESSAGE}")
        return uvarint.prefix(body)

    @classmethod
    def decode(cls, body: bytes, *, said: int | None = None) -> Message:
        """Read a message without its length; `said`: that length, when `body` is its beginning.

        Raises:
            KadMessageError: malformed, or too long.

        """
        size = len(body) if said is None else said
        if len(body) > MAX_MESSAGE or size > MAX_SAID:
            raise KadMessageError(f"a kad message of {size} bytes, over {MAX_MESSAGE}")
        uints: dict[int, int] = {}
        record: bytes | None = None
        key = b""
        closer: list[bytes] = []
        providers: list[bytes] = []
        try:
            for number, wire_type, value in protobuf.fields(body):
                if isinstance(value, int):
                    if wire_type == protobuf.VARINT:
                        uints[number] = value
                elif number == 2:
                    key = value
                elif number == 3:
                    record = value
                elif number == 8:
                    closer.append(value)
                elif number == 9:
                    providers.append(value)
        except protobuf.ProtobufError as error:
            if size == len(body):
                raise KadMessageError(f"a malformed kad message: {error}") from error
        try:
            stored = None if record is None else Record.decode(record)
        except protobuf.ProtobufError as error:
            raise KadMessageError(f"a malformed record: {error}") from error
        return cls(
            _type(uints.get(1, 0)),
            key,
            stored,
            _peers(closer),
            _peers(providers),
            len(uvarint.encode(size)) + len(body),
        )


class MessageReader:
    """Collects one message and decodes it; of one over MAX_MESSAGE no more than that is collected.

    A reader that has `cut` its message has left the stream inside of it: reset the stream.
    """

    __slots__ = ("_in", "cut")

    def __init__(self) -> None:
        self._in = bytearray()
        self.cut = False

    def receive_data(self, data: bytes | memoryview) -> Message | None:
        """Take bytes, split in any way; the message once there is enough of it.

        What follows the message is dropped: a client asks one thing a stream.

        Raises:
            KadMessageError: malformed, or longer than MAX_SAID.

        """
        self._in += data[: MAX_MESSAGE + uvarint.MAX_LEN]
        try:
            size, start = uvarint.decode(self._in)
        except uvarint.Incomplete:
            return None
        except uvarint.UvarintError as error:
            raise KadMessageError(f"a kad message with a bad length: {error}") from error
        if size > MAX_SAID:
            raise KadMessageError(f"a kad message of {size} bytes, over {MAX_SAID}")
        wanted = min(size, MAX_MESSAGE)
        if len(self._in) < start + wanted:
            return None
        self.cut = wanted < size
        return Message.decode(bytes(self._in[start : start + wanted]), said=size)


def _type(value: int) -> MessageType | int:
    try:
        return MessageType(value)
    except ValueError:
        return value


def _peers(raw: Iterable[bytes]) -> tuple[PeerInfo, ...]:
    """Those that can be read, each once, at most MAX_PEERS."""
    found: dict[PeerId, PeerInfo] = {}
    for one in raw:
        if len(found) == MAX_PEERS:
            break
        try:
            peer = PeerInfo.decode(one)
        except KadMessageError:
            continue  # an id of a kind unknown here must not cost the others
        found.setdefault(peer.id, peer)
    return tuple(found.values())


def _addresses(raw: Iterable[bytes], peer: PeerId) -> tuple[Multiaddr, ...]:
    """Those that can be read, at most MAX_ADDRESSES."""
    found: dict[Multiaddr, None] = {}
    for one in raw:
        if len(found) == MAX_ADDRESSES:
            break
        try:
            address = Multiaddr.decode(one)
            named = address.peer_id_bytes
        except MultiaddrError:
            continue  # one unknown transport must not cost the others
        bare = address if named is None else address.without_peer()
        if named in (None, peer.raw) and bare is not None:
            found[bare] = None
    return tuple(found)
