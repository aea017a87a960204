"""Client and server against each other, and against peers that break the protocol."""

from __future__ import annotations

import pytest

from pt.autonat.client import MAX_ASKED, Client, Verdict, askable
from pt.autonat.messages import (
    MAX_DATA,
    MAX_MESSAGE,
    MIN_DATA,
    AutonatError,
    DialData,
    DialDataRequest,
    DialRequest,
    DialResponse,
    DialStatus,
    Status,
    decode_message,
)
from pt.autonat.server import (
    CONCURRENT,
    DATA_PER_MINUTE,
    MAX_PEERS,
    PER_MINUTE,
    PER_PEER,
    DialBack,
    Rates,
    Request,
)
from pt.errors import LocalProtocolError
from pt.wire import uvarint
from pt.wire.multiaddr import Multiaddr

TCP = Multiaddr.parse("/ip4/11.0.1.2/tcp/4001")
QUIC = Multiaddr.parse("/ip4/11.0.1.2/udp/4001/quic-v1")
ELSEWHERE = Multiaddr.parse("/ip4/11.0.9.9/tcp/4001")
PRIVATE = Multiaddr.parse("/ip4/192.168.1.2/tcp/4001")
INSIDE_QUIC = Multiaddr.parse("/ip4/192.168.1.2/udp/4001/quic-v1")
NONCE = 77


def request(observed: str = "11.0.1.2", *, admit: bool = True, only_tcp: bool = False) -> Request:
    return Request(
        observed,
        random=lambda bound: bound - 1,
        dials=lambda address: not only_tcp or address.udp_port is None,
        admit=lambda _: admit,
    )


def exchange(client: Client, server: Request) -> tuple[DialBack | Verdict | None, int]:
    """Until one of them has something to do outside; and the bytes that the client paid."""
    paid = 0
    for _ in range(5):
        for part in client.data_to_send():
            paid += len(part)
            dial = server.receive_data(part)
            if dial is not None:
                return dial, paid
        verdict = client.receive_data(server.data_to_send())
        if verdict is not None:
            return verdict, paid
    return None, paid


def test_an_address_where_the_client_is_costs_nothing() -> None:
    client, server = Client([PRIVATE, QUIC, TCP], NONCE), request()
    dial, paid = exchange(client, server)
    assert dial == DialBack(0, QUIC, NONCE, 0.0)
    assert paid < 100
    client.dialed_back(INSIDE_QUIC)
    server.dialed(DialStatus.OK)
    verdict, _ = exchange(client, server)
    assert verdict == Verdict(QUIC, True, Status.OK, "dialed from outside")


def test_an_address_elsewhere_costs_more_than_the_dial_and_a_delay() -> None:
    client, server = Client([ELSEWHERE], NONCE), request()
    dial, paid = exchange(client, server)
    assert isinstance(dial, DialBack)
    assert MIN_DATA <= MAX_DATA < paid < MAX_DATA + 2000
    assert 2.9 < dial.delay < 3.0
    server.dialed(DialStatus.DIAL_ERROR)
    verdict, _ = exchange(client, server)
    assert verdict == Verdict(ELSEWHERE, False, Status.OK, "the server could not connect")


def test_the_first_address_that_the_server_dials_is_taken() -> None:
    client, server = Client([QUIC, TCP], NONCE), request(only_tcp=True)
    dial, _ = exchange(client, server)
    assert dial == DialBack(1, TCP, NONCE, 0.0)


def test_a_lying_server_makes_nothing_reachable() -> None:
    client, server = Client([QUIC], NONCE), request()
    exchange(client, server)
    server.dialed(DialStatus.OK)
    verdict, _ = exchange(client, server)
    assert isinstance(verdict, Verdict)
    assert verdict.reachable is None
    assert "nobody has seen" in verdict.reason


@pytest.mark.parametrize("local", [PRIVATE, Multiaddr.parse("/ip6/2a00::1/udp/4001/quic-v1")])
def test_a_nonce_on_another_kind_of_connection_does_not_count(local: Multiaddr) -> None:
    client, server = Client([QUIC], NONCE), request()
    exchange(client, server)
    client.dialed_back(local)
    server.dialed(DialStatus.OK)
    verdict, _ = exchange(client, server)
    assert isinstance(verdict, Verdict)
    assert verdict.reachable is None


@pytest.mark.parametrize(
    ("server", "addresses", "status"),
    [
        (request(admit=False), [QUIC], Status.REQUEST_REJECTED),
        (request(only_tcp=True), [QUIC], Status.DIAL_REFUSED),
    ],
)
def test_requests_that_are_not_served(server, addresses, status) -> None:
    verdict, _ = exchange(Client(addresses, NONCE), server)
    assert isinstance(verdict, Verdict)
    assert (verdict.status, verdict.reachable, verdict.address) == (status, None, None)
    assert server.done


def test_private_and_named_addresses_are_never_dialed() -> None:
    name = Multiaddr.parse("/dns4/example.com/tcp/4001")
    server = request()
    assert server.receive_data(DialRequest((None, PRIVATE, name), NONCE).encode()) is None
    assert decode_message(server.data_to_send()[1:]) == DialResponse(Status.DIAL_REFUSED)


def test_only_public_addresses_are_asked_about() -> None:
    with pytest.raises(LocalProtocolError):
        Client([PRIVATE], NONCE)
    many = [Multiaddr.tcp("11.0.1.2", port) for port in range(1, 50)]
    assert len(askable(many)) == MAX_ASKED


class TestServersThatBreakTheProtocol:
    def told(self, *data: bytes) -> Client:
        client = Client([QUIC], NONCE)
        client.data_to_send()
        for each in data:
            client.receive_data(each)
        return client

    @pytest.mark.parametrize(
        ("data", "error"),
        [
            (DialDataRequest(0, MAX_DATA + 1).encode(), "over 100000"),
            (DialDataRequest(1, MIN_DATA).encode(), "not asked for"),
            (DialResponse(Status.OK, 1, DialStatus.OK).encode(), "not asked for"),
            (DialData(b"x").encode(), "only clients"),
            (DialRequest((QUIC,), 1).encode(), "only clients"),
            (uvarint.encode(MAX_MESSAGE + 1), "over 8192"),
        ],
    )
    def test_one_message(self, data: bytes, error: str) -> None:
        with pytest.raises(AutonatError, match=error):
            self.told(data)

    def test_it_wants_more_than_it_may_have(self) -> None:
        wanted: list[int] = []
        client = Client([QUIC], NONCE, pay=lambda count: wanted.append(count) or False)
        client.data_to_send()
        with pytest.raises(AutonatError, match="may have now"):
            client.receive_data(DialDataRequest(0, MIN_DATA).encode())
        assert wanted == [MIN_DATA]
        assert client.data_to_send() == []

    def test_it_wants_to_be_paid_twice(self) -> None:
        with pytest.raises(AutonatError, match="twice"):
            self.told(*[DialDataRequest(0, MIN_DATA).encode()] * 2)


class TestClientsThatBreakTheProtocol:
    @pytest.mark.parametrize(
        "data",
        [
            DialData(b"x" * 4000).encode(),
            DialResponse(Status.OK).encode(),
            DialRequest((QUIC,), 1).encode() * 2,
            uvarint.encode(MAX_MESSAGE + 1),
        ],
    )
    def test_at_the_wrong_time(self, data: bytes) -> None:
        server = request()
        with pytest.raises(AutonatError):
            for _ in range(2):
                server.receive_data(data)

    def test_small_change_is_not_taken(self) -> None:
        server = request()
        server.receive_data(DialRequest((ELSEWHERE,), 1).encode())
        with pytest.raises(AutonatError, match="99 bytes at a time"):
            server.receive_data(DialData(bytes(99)).encode())

    def test_the_last_part_may_be_small(self) -> None:
        server = request()
        server.receive_data(DialRequest((ELSEWHERE,), 1).encode())
        for _ in range(MAX_DATA // 4000 - 1):
            assert server.receive_data(DialData(bytes(4000)).encode()) is None
        assert server.receive_data(DialData(bytes(3999)).encode()) is None
        assert server.receive_data(DialData(bytes(1)).encode()) is not None

    def test_talk_after_the_answer(self) -> None:
        server = request(only_tcp=True)
        server.receive_data(DialRequest((QUIC,), 1).encode())
        with pytest.raises(AutonatError, match="after the answer"):
            server.receive_data(DialRequest((QUIC,), 1).encode())


class TestRates:
    def test_a_peer_has_its_share_and_gets_it_back(self) -> None:
        rates = Rates()
        assert all(rates.admit(b"a", 1.0, with_data=False) for _ in range(PER_PEER))
        assert not rates.admit(b"a", 60.0, with_data=False)
        assert rates.admit(b"b", 60.0, with_data=False)
        assert rates.admit(b"a", 61.1, with_data=False)

    def test_all_peers_have_a_share(self) -> None:
        rates = Rates()
        served = sum(rates.admit(bytes([n]), 1.0, with_data=False) for n in range(200))
        assert served == PER_MINUTE

    def test_dials_elsewhere_are_rarer(self) -> None:
        rates = Rates()
        served = sum(rates.admit(bytes([n]), 1.0, with_data=True) for n in range(50))
        assert served == DATA_PER_MINUTE
        assert rates.admit(b"other", 1.0, with_data=False)

    def test_few_at_a_time(self) -> None:
        rates = Rates()
        assert [rates.begin(b"a") for _ in range(CONCURRENT + 1)] == [True] * CONCURRENT + [False]
        rates.end(b"a")
        assert rates.begin(b"a")
        rates.end(b"a")
        rates.end(b"a")
        assert not rates._active

    def test_the_table_of_peers_is_bounded(self) -> None:
        rates = Rates()
        for number in range(2 * MAX_PEERS):
            rates.admit(number.to_bytes(4), float(number), with_data=False)
        assert len(rates._peers) == MAX_PEERS
