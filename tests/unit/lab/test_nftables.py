"""Rules for the kernel: what is easily written wrong; what they do is in test_engines.py."""

from __future__ import annotations

import pytest

from pt.lab.model.spec import SpecError, parse_nat
from pt.lab.nftables import nat_rules, wall_rules


def rules(text: str) -> str:
    return nat_rules(parse_nat(text)[0], "11.100.0.1")


def test_sequences_are_maps_since_an_offset_would_step_by_256() -> None:
    text = rules("apdm-seq,step=2")
    assert "numgen inc mod 4096 map { 0 : 20000, 1 : 20002, " in text
    assert "offset" not in text


def test_only_what_is_needed_is_learnt() -> None:
    assert "known_" not in rules("apdm-apdf")
    assert "inward_" not in rules("eim-apdf")
    assert "ct original ip saddr . ct original proto-src . ip daddr" in rules("adm-apdf")
    assert "udp dport . ip saddr map @inward_udp" in rules("eim-adf")


def test_unsolicited_packets_do_not_reach_the_router() -> None:
    assert 'iifname "wan0" ct state new drop' in rules("eim")
    assert 'iifname "wan0" ct state new drop' not in rules("linux,input=accept")
    assert "reject with tcp reset" in rules("eim,unsolicited=reject")


def test_blocked_ports() -> None:
    assert 'iifname "lan*" meta l4proto udp drop' in rules("udpblock")
    assert "tcp dport != { 80, 443 } drop" in rules("eim,tcp=443/80")


def test_walls() -> None:
    spec = parse_nat("fw-adf")[0]
    assert "ip6 saddr . udp sport . ip6 daddr" in wall_rules(spec, 6)
    assert "chain pass" not in wall_rules(parse_nat("public")[0], 4)


@pytest.mark.parametrize("text", ["eim,maxage=5", "apdm-block", "eim,hairpin=on", "eim,overload=1"])
def test_what_the_kernel_cannot_is_refused(text) -> None:
    with pytest.raises(SpecError, match="kernel engine"):
        rules(text)
