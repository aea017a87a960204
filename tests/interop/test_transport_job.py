"""Both spellings of the environment of libp2p's transport interop contract."""

from __future__ import annotations

import pytest

from interop.rig import contract_environment, read_latencies
from interop.transport_test import ContractError, Job, read_job


def environment(modern: bool, **changes: str) -> dict[str, str]:
    whole = contract_environment(modern=modern, dialer=True, redis="11.0.0.1:6379", key="abcd1234")
    return {**whole, **changes}


@pytest.mark.parametrize("modern", [True, False])
def test_both_spellings_say_the_same(modern: bool) -> None:
    assert read_job(environment(modern)) == Job(
        dialer=True,
        modern=modern,
        redis_host="11.0.0.1",
        redis_port=6379,
        key="abcd1234_listener_multiaddr" if modern else "listenerAddr",
        ip="0.0.0.0",
        timeout=180 if modern else 30,
    )


@pytest.mark.parametrize(
    ("modern", "changes", "says"),
    [
        (True, {"TRANSPORT": "quic-v1"}, "TRANSPORT='quic-v1'"),
        (True, {"SECURE_CHANNEL": "tls"}, "SECURE_CHANNEL='tls'"),
        (True, {"TEST_KEY": ""}, "TEST_KEY is missing"),
        (True, {"REDIS_ADDR": "here"}, "HOST:PORT"),
        (False, {"muxer": "mplex"}, "muxer='mplex'"),
        (False, {"redis_addr": "11.0.0.1:"}, "HOST:PORT"),
    ],
)
def test_what_we_do_not_have_is_named(modern: bool, changes: dict[str, str], says: str) -> None:
    with pytest.raises(ContractError, match=says):
        read_job(environment(modern, **changes))


def test_listener_is_not_dialer() -> None:
    assert not read_job(environment(True, IS_DIALER="false")).dialer
    assert not read_job(environment(False, is_dialer="false")).dialer


def test_latencies_are_read_from_both_forms() -> None:
    yaml = "latency:\n  handshake_plus_one_rtt: 5.011\n  ping_rtt: 0.599\n  unit: ms\n"
    assert read_latencies(yaml, modern=True) == (5.011, 0.599)
    legacy = '{"handshakePlusOneRTTMillis": 5.011, "pingRTTMilllis": 0.599}'
    assert read_latencies(legacy, modern=False) == (5.011, 0.599)
    with pytest.raises((ValueError, KeyError)):
        read_latencies(legacy.replace("lll", "ll"), modern=False)
    with pytest.raises((ValueError, KeyError)):
        read_latencies(yaml.replace("unit: ms", "unit: s"), modern=True)
