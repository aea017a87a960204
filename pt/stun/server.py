"""A STUN server for Binding requests, with what RFC 5780 adds: answers from other addresses.

A server has up to four places to answer from: two IP addresses, two ports each. Which of them
there are may change while it runs, as the other relay that lends two of them comes and goes: what
is asked for and not there is refused (420), so that nobody takes our lack for the NAT's.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, NamedTuple

from pt.stun.attributes import (
    CHANGE_REQUEST,
    CONNECT_BACK,
    LATER,
    MAPPED_ADDRESS,
    OTHER_ADDRESS,
    PADDING,
    RESPONSE_ORIGIN,
    RESPONSE_PORT,
    SOFTWARE,
    USERNAME,
    XOR_MAPPED_ADDRESS,
    Address,
    Change,
    address,
    change_request,
    error_code,
    later,
    read_change_request,
    read_later,
    read_port,
    unknown_attributes,
    xor_address,
)
from pt.stun.limits import Allowance, Held
from pt.stun.messages import (
    BINDING,
    FINGERPRINT,
    INTEGRITY,
    INTEGRITY_SHA256,
    Attribute,
    Kind,
    Message,
    StunError,
    decode,
    encode,
)

__all__ = ["PRIMARY", "Answer", "Place", "Server"]

_KNOWN: Final = frozenset(
    {CHANGE_REQUEST, RESPONSE_PORT, PADDING, USERNAME, INTEGRITY, INTEGRITY_SHA256, MAPPED_ADDRESS}
    | {XOR_MAPPED_ADDRESS}
)
_REQUIRED: Final = 0x8000
"""Types below are to be understood, or the request is refused."""
MAX_UNKNOWN: Final = 16
"""Types told in a 420; the answer has to stay short."""


class Place(NamedTuple):
    """One of the server's own addresses: which IP address, and which port of it."""

    ip: int
    port: int


PRIMARY: Final = Place(0, 0)


@dataclass(frozen=True, slots=True)
class Answer:
    """To be sent to an address, from a place; `back`: the places to connect to it from, too.

    later: seconds after which to say something once more, over the same connection, which is held
    until then and counts until `Held.release`.
    """

    data: bytes
    to: Address
    place: Place
    back: tuple[Place, ...] = ()
    later: float = 0.0


class _Refusal(Exception):  # noqa: N818  # an answer, not a failure
    def __init__(self, code: int, reason: str, *attributes: Attribute) -> None:
        super().__init__(reason)
        self.attributes = (error_code(code, reason), *attributes)


class Server:
    """Answers requests of one IP version."""

    def __init__(
        self,
        places: dict[Place, Address],
        *,
        software: str = "",
        allowance: Allowance | None = None,
        connections: Allowance | None = None,
        held: Held | None = None,
        password_of: Callable[[bytes], bytes | None] | None = None,
    ) -> None:
        """`places`: the addresses as clients know them; `PRIMARY` is one of them.

        `connections`: to clients that ask for them over TCP, `held`: of clients that want to hear
        something later; None: there are none. With
        `password_of`, which knows a user's key (`password_key`) or none, requests have to be
        signed.
        """
        self.places = places
        self.counts: Counter[str] = Counter()
        """Requests answered, refused by code, and dropped, by reason."""
        self._software = software
        self._allowance = allowance if allowance is not None else Allowance()
        self._connections = connections
        self._held = held
        self._password_of = password_of

    def receive(
        self, data: bytes, source: Address, at: Place, now: float, *, stream: bool = False
    ) -> Answer | None:
        """Take what came from `source` to the place `at`; what to send, if anything.

        Over a `stream` the answer can go nowhere but back.
        """
        if not self._allowance.room(now):
            self.counts["dropped: too many"] += 1
            return None
        try:
            message = decode(data)
        except StunError:
            self.counts["dropped: damaged"] += 1
            return None
        if message.kind is not Kind.REQUEST or message.method != BINDING:
            self.counts["dropped: no request"] += 1
            return None
        if not self._allowance.take(source[0], now):
            self.counts["dropped: too many"] += 1
            return None
        key: bytes | None = None
        to, place = source, at
        back: tuple[Place, ...] = ()
        silence = 0.0
        kind = Kind.ERROR
        attributes: tuple[Attribute, ...]
        try:
            key = self._authenticate(message)
            to, place = self._route(message, source, at, stream=stream)
            attributes = self._answer(message, source, at, place, key)
            kind = Kind.SUCCESS
            if stream and message.get(CONNECT_BACK) is not None:
                back = self._back(source, at, now)
                flags = Change(any(each.ip != at.ip for each in back), any(back))
                attributes += ((CONNECT_BACK, change_request(flags)[1]),)
            if stream and (silence := self._silence(message, source)):
                attributes += (later(silence),)
        except _Refusal as refusal:
            attributes = refusal.attributes
            self.counts["refused"] += 1
        else:
            self.counts["answered"] += 1
        return Answer(self._encode(message, kind, attributes, key), to, place, back, silence)

    def _back(self, source: Address, at: Place, now: float) -> tuple[Place, ...]:
        """From where to connect to somebody: the second ports, for at the first ones we listen."""
        if self._connections is None or at.port:
            return ()
        wanted = (Place(at.ip, 1), Place(at.ip ^ 1, 1))
        return tuple(
            each
            for each in wanted
            if each in self.places and self._connections.take(source[0], now)
        )

    def _silence(self, message: Message, source: Address) -> float:
        """After how many seconds to say something once more; 0: not at all."""
        wish = message.get(LATER)
        if wish is None or self._held is None:
            return 0.0
        try:
            seconds = read_later(wish)
        except StunError as error:
            raise _Refusal(400, "Bad Request") from error
        return seconds if seconds and self._held.take(source[0], seconds) else 0.0

    def _authenticate(self, message: Message) -> bytes | None:
        """The key to sign the answer with."""
        if self._password_of is None:
            return None
        user = message.get(USERNAME)
        signed = message.get(INTEGRITY) or message.get(INTEGRITY_SHA256)
        if user is None or signed is None:
            raise _Refusal(400, "Bad Request")
        key = self._password_of(user)
        if key is None or not message.verify(key):
            raise _Refusal(401, "Unauthenticated")
        return key

    def _route(
        self, message: Message, source: Address, at: Place, *, stream: bool
    ) -> tuple[Address, Place]:
        """Where the answer goes, and where it leaves from."""
        kinds = (kind for kind, _ in message.attributes if kind < _REQUIRED)
        unknown = sorted({kind for kind in kinds if kind not in _KNOWN})
        try:
            change, port = self._wishes(message)
        except StunError as error:
            raise _Refusal(400, "Bad Request") from error
        place = Place(at.ip ^ change.ip, at.port ^ change.port)
        if any(change) and (place not in self.places or stream):
            unknown.append(CHANGE_REQUEST)
        if port and stream:
            unknown.append(RESPONSE_PORT)
        if unknown:
            kinds_told = unknown_attributes(unknown[:MAX_UNKNOWN])
            raise _Refusal(420, "Unknown Attribute", kinds_told)
        if port and message.get(PADDING) is not None:
            raise _Refusal(400, "Bad Request")  # RFC 5780 §6.1: fragments to a port of choice
        return (source[0], port or source[1]), place

    @staticmethod
    def _wishes(message: Message) -> tuple[Change, int]:
        change, port = message.get(CHANGE_REQUEST), message.get(RESPONSE_PORT)
        return (
            Change(False, False) if change is None else read_change_request(change),
            0 if port is None else read_port(port),
        )

    def _answer(
        self, message: Message, source: Address, at: Place, place: Place, key: bytes | None
    ) -> tuple[Attribute, ...]:
        found = [
            xor_address(XOR_MAPPED_ADDRESS, source, message.transaction),
            address(MAPPED_ADDRESS, source),
        ]
        if (origin := self.places.get(place)) is not None:
            found.append(address(RESPONSE_ORIGIN, origin))
        if (other := self.places.get(Place(at.ip ^ 1, at.port ^ 1))) is not None:
            found.append(address(OTHER_ADDRESS, other))
        if self._software:
            found.append((SOFTWARE, self._software.encode()[:32]))
        if (padding := message.get(PADDING)) is not None:
            # No longer than the request, or we would be lent as an amplifier.
            without = len(self._encode(message, Kind.SUCCESS, tuple(found), key))
            spare = len(message.raw) - without - 4
            found.append((PADDING, bytes(max(0, min(len(padding), spare) // 4 * 4))))
        return tuple(found)

    @staticmethod
    def _encode(
        message: Message, kind: Kind, attributes: tuple[Attribute, ...], key: bytes | None
    ) -> bytes:
        modern = message.get(INTEGRITY_SHA256) is not None
        return encode(
            kind,
            BINDING,
            message.transaction,
            attributes,
            key=None if modern else key,
            sha256_key=key if modern else None,
            fingerprint=message.get(FINGERPRINT) is not None,
        )
