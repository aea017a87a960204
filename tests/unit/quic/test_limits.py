from __future__ import annotations

from pt.quic.limits import BASE_DATAGRAM, MAX_DATAGRAM_IPV4, MAX_DATAGRAM_IPV6, Limits


def test_defaults_fit_together() -> None:
    limits = Limits()
    assert limits.stream_window <= limits.max_stream_window <= limits.connection_window // 2
    assert limits.send_buffer <= limits.send_total
    assert 2 * limits.keep_alive < 10, "rust-libp2p gives up after 10 s"
    assert limits.keep_alive < limits.idle_timeout
    assert BASE_DATAGRAM < MAX_DATAGRAM_IPV6 < MAX_DATAGRAM_IPV4 == limits.max_datagram
