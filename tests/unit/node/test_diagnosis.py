from __future__ import annotations

import asyncio
import errno
import re
import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pt.errors import (
    BlockedError,
    ClosedError,
    ConnectError,
    CryptoFailure,
    Dial,
    DialOutcome,
    DnsCause,
    DnsError,
    LimitError,
    LocalProtocolError,
    NetworkError,
    RefusedError,
    RemoteProtocolError,
    UsageError,
)
from pt.node.diagnosis import FRESH, MAX_DIALS, Cause, DialLog, diagnose, outcome_of, reason_of

A, B, C = (f"/ip4/11.0.0.{n}/tcp/4001" for n in (1, 2, 3))
A_443 = "/ip4/11.0.0.1/tcp/443/wss"
SIX = "/ip6/2600::1/tcp/4001"
LAN, LOOP = "/ip4/192.168.1.2/tcp/4001", "/ip4/127.0.0.1/tcp/4001"
NAME, OTHER_NAME = "/dns4/relay.test/tcp/4001", "/dns4/relay2.test/tcp/4001"
OK, REFUSED, SILENT = DialOutcome.ANSWERED, DialOutcome.REFUSED, DialOutcome.SILENT
NO_ROUTE, NO_DNS, NO_NAME = DialOutcome.NO_ROUTE, DialOutcome.NO_DNS, DialOutcome.NO_NAME
FORBIDDEN, CUT, NO_HOST = DialOutcome.FORBIDDEN, DialOutcome.CUT, DialOutcome.UNREACHABLE
WSS = "relay with wss on port 443"

CASES = [
    # what was dialed (address, outcome, party) → cause, words of the message
    ([], None, ""),
    ([(A, OK)], None, ""),
    ([(A, SILENT), (B, SILENT), (C, OK)], None, ""),
    ([(A, DialOutcome.UNKNOWN)], None, ""),
    # no network
    ([(A, NO_ROUTE)], Cause.NO_NETWORK, "no route to 11.0.0.1 port 4001: connect it"),
    ([(A, NO_ROUTE), (B, NO_ROUTE), (SIX, NO_ROUTE)], Cause.NO_NETWORK, "1 more"),
    ([(A, NO_ROUTE), (NAME, NO_DNS)], Cause.NO_NETWORK, "no route"),
    ([(LAN, NO_ROUTE)], Cause.NO_NETWORK, "192.168.1.2"),
    ([(NAME, NO_ROUTE)], Cause.NO_NETWORK, "no route to relay.test port 4001"),
    ([("/dnsaddr/boot.test", NO_ROUTE)], Cause.NO_NETWORK, "no route to boot.test: connect"),
    ([(SIX, NO_ROUTE)], Cause.NO_IPV6, "no IPv6"),
    ([(SIX, NO_ROUTE), (A, SILENT)], Cause.PEER_SILENT, "11.0.0.1 port 4001 does not answer"),
    ([(SIX, NO_ROUTE), (NAME, NO_DNS)], Cause.NO_DNS, "because no-dns"),
    ([(A, NO_ROUTE), (B, SILENT), (C, SILENT)], Cause.DROPPED, ""),
    # the DNS
    ([(NAME, NO_DNS)], Cause.NO_DNS, "because no-dns"),
    ([(NAME, NO_NAME)], Cause.NO_NAME, "because no-name"),
    ([(NAME, NO_NAME), (OTHER_NAME, NO_DNS)], Cause.NO_DNS, "because no-dns"),
    ([(NAME, NO_DNS), (A, SILENT)], Cause.NO_DNS, "because no-dns"),
    ([(NAME, NO_NAME), (A, SILENT)], Cause.PEER_SILENT, "11.0.0.1"),
    ([(NAME, NO_DNS), (A, SILENT), (B, SILENT)], Cause.DROPPED, ""),
    # one party: its own fault, maybe
    ([(A, REFUSED)], Cause.PEER_REFUSES, "nothing listens there"),
    ([(A, SILENT)], Cause.PEER_SILENT, WSS),
    ([(A, SILENT, "p"), (B, SILENT, "p"), (SIX, SILENT, "p")], Cause.PEER_SILENT, "1 more"),
    ([(A, SILENT), ("/ip4/11.0.0.1/tcp/4002", SILENT)], Cause.PEER_SILENT, ""),
    ([(A_443, SILENT)], Cause.PEER_SILENT, "even port 443"),
    ([(A, NO_HOST)], Cause.PEER_SILENT, "cannot be reached"),
    ([(A, CUT)], Cause.PEER_CUTS, "takes the connection and ends it"),
    # several: the network
    ([(A, REFUSED), (B, REFUSED)], Cause.REJECTED, f"everything refuses.*{WSS}"),
    ([(A, REFUSED, "p"), (B, REFUSED, "q")], Cause.REJECTED, "11.0.0.1.*11.0.0.2"),
    ([(A, SILENT), (B, SILENT)], Cause.DROPPED, f"nothing answers.*{WSS}"),
    ([(A_443, SILENT), (B, SILENT)], Cause.DROPPED, "even port 443"),
    ([(A, NO_HOST), (B, NO_HOST)], Cause.DROPPED, "routers say"),
    ([(A, NO_HOST), (B, SILENT)], Cause.DROPPED, "nothing answers"),
    ([(A, CUT), (B, CUT)], Cause.CUT, "login page"),
    ([(A, FORBIDDEN)], Cause.FORBIDDEN, "allow pt to connect out"),
    ([(A, FORBIDDEN), (B, FORBIDDEN)], Cause.FORBIDDEN, ""),
    # no common cause
    ([(A, REFUSED), (B, SILENT)], None, ""),
    ([(A, CUT), (B, SILENT)], None, ""),
    # private and loopback addresses mean other machines here
    ([(LAN, REFUSED), (LOOP, REFUSED), (A, SILENT)], Cause.PEER_SILENT, "^11.0.0.1 port"),
    ([(LAN, SILENT), (LOOP, REFUSED)], Cause.PEER_SILENT, "192.168.1.2"),
    ([(LAN, OK), (A, SILENT), (B, SILENT)], Cause.DROPPED, "11.0.0.1"),
    ([(LAN, OK), (LOOP, REFUSED)], None, ""),
    ([(NAME, OK), (A, SILENT), (B, SILENT)], None, ""),
    ([(LOOP, REFUSED)], Cause.PEER_REFUSES, "127.0.0.1"),
    ([(LAN, SILENT), (NAME, NO_DNS)], Cause.NO_DNS, ""),
    ([("/ip4/224.0.0.1/tcp/1", NO_ROUTE), (A, SILENT)], Cause.PEER_SILENT, "^11.0.0.1"),
]


def dialed(*facts: object) -> Dial:
    address, outcome, *party = facts
    assert isinstance(outcome, DialOutcome)
    return Dial(str(address), f"because {outcome.value}", outcome, *map(str, party))


@pytest.mark.parametrize(("dials", "cause", "words"), CASES)
def test_what_is_in_the_way(dials: list[tuple], cause: Cause | None, words: str) -> None:
    found = diagnose(dialed(*each) for each in dials)
    assert (found.cause if found else None) is cause
    if found:
        assert re.search(words, found.message), found.message
    again = diagnose(dialed(*each) for each in reversed(dials))
    assert (again.cause if again else None) is cause


CODES = {
    Cause.NO_NETWORK: (NetworkError, 7), Cause.NO_IPV6: (NetworkError, 7),
    Cause.NO_DNS: (DnsError, 12), Cause.NO_NAME: (DnsError, 12),
    Cause.FORBIDDEN: (BlockedError, 13), Cause.REJECTED: (BlockedError, 13),
    Cause.DROPPED: (BlockedError, 13), Cause.CUT: (BlockedError, 13),
    Cause.PEER_REFUSES: (ConnectError, 5), Cause.PEER_SILENT: (ConnectError, 5),
    Cause.PEER_CUTS: (ConnectError, 5),
}  # fmt: skip


@pytest.mark.parametrize("cause", Cause)
def test_each_cause_has_its_error(cause: Cause) -> None:
    dials = next(dials for dials, expected, _ in CASES if expected is cause)
    found = diagnose(dialed(*each) for each in dials)
    assert found is not None
    error = found.error()
    kind, code = CODES[cause]
    assert type(error) is kind
    assert error.exit_code == code
    assert str(error) == found.message
    assert found.sure is (code != 5)
    if isinstance(error, ConnectError):
        assert error.attempts
    if isinstance(error, DnsError):
        assert error.cause.is_answer is (cause is Cause.NO_NAME)


addresses = st.sampled_from([A, B, A_443, SIX, LAN, LOOP, NAME, "/dnsaddr/boot.test"])
dials = st.builds(
    Dial, addresses, st.just("why"), st.sampled_from(DialOutcome), st.sampled_from(["", "p", "q"])
)


@given(st.lists(dials, max_size=8))
def test_any_dials_are_judged(tried: list[Dial]) -> None:
    found = diagnose(tried)
    if any(each.outcome is OK and each.address in (A, B, NAME) for each in tried):
        assert found is None
    if found is not None:
        assert found.message
        assert set(found.dials) <= set(tried)
        assert found.error().exit_code in {5, 7, 12, 13}


def os_error(number: int) -> OSError:
    return OSError(number, "x")


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (os_error(errno.ECONNREFUSED), REFUSED),
        (os_error(errno.ETIMEDOUT), SILENT),
        (TimeoutError(), SILENT),
        (os_error(errno.EHOSTUNREACH), NO_HOST),
        (os_error(errno.ENETUNREACH), NO_ROUTE),
        (os_error(errno.EADDRNOTAVAIL), NO_ROUTE),
        (os_error(errno.EPERM), FORBIDDEN),
        (os_error(errno.EACCES), FORBIDDEN),
        (os_error(errno.ECONNRESET), CUT),
        (os_error(errno.EMFILE), DialOutcome.UNKNOWN),
        (socket.gaierror(socket.EAI_AGAIN, "x"), DialOutcome.UNKNOWN),
        (DnsError("x", DnsCause.TIMEOUT), NO_DNS),
        (DnsError("x", DnsCause.NO_RESOLVER), NO_DNS),
        (DnsError("x", DnsCause.UNREACHABLE), NO_ROUTE),
        (DnsError("x", DnsCause.NO_NAME), NO_NAME),
        (DnsError("x", DnsCause.NO_RECORD), NO_NAME),
        (ClosedError("x"), CUT),
        (CryptoFailure("x"), CUT),
        (RemoteProtocolError("x"), CUT),
        (RefusedError("x"), OK),
        (UsageError("x"), DialOutcome.UNKNOWN),
        (LimitError("x"), DialOutcome.UNKNOWN),
        (LocalProtocolError("x"), DialOutcome.UNKNOWN),
        (asyncio.CancelledError(), DialOutcome.UNKNOWN),
        (ConnectError("x"), DialOutcome.UNKNOWN),
        (ConnectError("x", [dialed(A, SILENT), dialed(B, REFUSED)]), REFUSED),
        (ConnectError("x", [dialed(A, NO_DNS), dialed(B, OK), dialed(C, CUT)]), OK),
    ],
)
def test_how_far_a_dial_got(error: BaseException, outcome: DialOutcome) -> None:
    assert outcome_of(error) is outcome


def test_reasons() -> None:
    assert reason_of(os_error(errno.ECONNREFUSED)) == "connection refused"
    assert reason_of(TimeoutError()) == "no answer in time"
    assert reason_of(asyncio.CancelledError()) == "given up"
    assert reason_of(RefusedError("not you")) == "not you"
    assert reason_of(OSError("odd")) == "odd"


def test_the_log_keeps_the_last_of_each_for_a_while() -> None:
    log = DialLog()
    log.note(dialed(A, SILENT), 0.0)
    log.note(dialed(B, REFUSED), 1.0)
    log.note(dialed(A, OK), 2.0)
    log.note(dialed(C, DialOutcome.UNKNOWN), 3.0)
    log.note(dialed(A, SILENT, "p"), 4.0)  # somebody else was expected there
    assert log.recent(5.0) == (dialed(B, REFUSED), dialed(A, OK), dialed(A, SILENT, "p"))
    assert log.recent(FRESH + 2.0) == (dialed(A, SILENT, "p"),)


def test_what_was_before_the_network_went_away_says_nothing() -> None:
    log = DialLog()
    log.note(dialed(A, OK), 0.0)
    log.note(dialed(B, NO_ROUTE), 1.0)
    log.note(dialed("/ip4/224.0.0.1/tcp/1", NO_ROUTE), 2.0)  # there never is one
    log.note(dialed(SIX, REFUSED), 2.0)
    log.note(dialed(C, SILENT), 3.0)
    log.note(dialed(A_443, NO_ROUTE), 4.0)
    assert {each.address for each in log.recent(5.0)} == {B, "/ip4/224.0.0.1/tcp/1", SIX, A_443}


def test_the_log_is_bounded() -> None:
    log = DialLog()
    for number in range(MAX_DIALS + 5):
        log.note(dialed(f"/ip4/11.0.0.1/tcp/{number + 1}", SILENT), 0.0)
    assert len(log.recent(0.0)) == MAX_DIALS
