import pytest

from pt.portmap.mapping import (
    Mapping,
    Outer,
    PortmapError,
    Service,
    Wanted,
    checked_external,
    outer,
)
from pt.wire.nat_facts import Protocol


@pytest.mark.parametrize(
    ("host", "kind"),
    [
        ("11.5.0.2", Outer.PUBLIC),
        ("2a00:6000::1", Outer.PUBLIC),
        ("100.64.0.1", Outer.CARRIER),
        ("100.127.255.254", Outer.CARRIER),
        ("100.128.0.1", Outer.PUBLIC),
        ("10.0.0.1", Outer.PRIVATE),
        ("192.168.0.7", Outer.PRIVATE),
        ("203.0.113.9", Outer.PRIVATE),
        ("fd00::1", Outer.PRIVATE),
    ],
)
def test_only_a_public_address_is_public(host: str, kind: Outer) -> None:
    assert outer(host) is kind
    mapping = Mapping(
        service=Service.PCP,
        wanted=Wanted(Protocol.UDP, 1),
        internal=("192.168.1.2", 1),
        external=(host, 2),
        lifetime=60,
    )
    assert mapping.outer is kind


@pytest.mark.parametrize(
    "host",
    ["", "x", "0.0.0.0", "::", "127.0.0.1", "224.0.0.1", "255.255.255.255", "169.254.1.1", "1.2.3"],
)
def test_an_external_address_that_none_can_have_is_refused(host: str) -> None:
    with pytest.raises(PortmapError, match="external address"):
        checked_external(host)


def test_a_mapped_address_is_written_as_ipv4() -> None:
    assert checked_external("::ffff:11.0.0.1") == "11.0.0.1"
    assert checked_external("2A00:6000:0::1") == "2a00:6000::1"
