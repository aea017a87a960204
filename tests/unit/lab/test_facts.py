"""Specs and facts say the same."""

from __future__ import annotations

import itertools

import pytest

from pt.lab.campaign import facts_of_label
from pt.lab.facts import facts6_of, facts_of, spec_of
from pt.lab.model.spec import ALLOCATIONS, FILTERINGS, MAPPINGS, parse_nat
from pt.wire.nat_facts import NatFacts, Protocol

KINDS = ["-".join(words) for words in itertools.product(MAPPINGS, FILTERINGS, ALLOCATIONS)]


@pytest.mark.parametrize(
    ("spec", "label"),
    [
        ("eim-adf", "eim-adf"),
        ("apdm", "apdm-random-apdf"),
        ("adm-eif-seq", "adm-seq-eif"),
        ("linux", "eim-apdf"),
        ("fw-adf", "fw-adf"),
        ("fw-eif", "public"),
        ("public", "public"),
        ("udpblock", "blocked"),
        ("v6", "blocked"),
        ("eim-eif+apdm-adf-random", "apdm-random-adf"),
        ("apdm-apdf-random+eim-eif", "apdm-random-apdf"),
    ],
)
def test_labels(spec, label) -> None:
    assert facts_of(parse_nat(spec)).label == label


def test_details() -> None:
    facts = facts_of(
        parse_nat("apdm-seq,step=3,maxage=60,max=8,refresh=out,simopen=0,hairpin=on,timeout=30")
    )
    assert (facts.step, facts.max_age, facts.quota, facts.lifetime) == (3, 60, 8, 30)
    assert (facts.inbound_refreshes, facts.simultaneous_open, facts.hairpin) == (False, False, True)
    assert facts_of(parse_nat("tcp443"), Protocol.TCP).works
    assert facts_of(parse_nat("apdm,ports=5000-5499")).block == (5000, 5499)
    assert facts_of(parse_nat("apdm-seq,noise=5")).noise == 5
    six = facts6_of(parse_nat("eim,v6=adf"))
    assert six is not None
    assert (six.label, six.family) == ("fw-adf", 6)
    assert facts6_of(parse_nat("eim")) is None
    assert facts_of(parse_nat("eim+eim")).carrier_grade


@pytest.mark.parametrize("spec", [*KINDS, "public", "fw-adf", "fw-apdf", "udpblock"])
def test_there_and_back(spec) -> None:
    facts = facts_of(parse_nat(spec))
    again = facts_of(parse_nat(spec_of(facts)))
    assert again == facts


def test_what_is_unknown_is_taken_as_the_commonest() -> None:
    assert spec_of(NatFacts()) == "eim-apdf-preserve"
    assert spec_of(NatFacts(block=(1000, 1999), ports=facts_of(parse_nat("apdm")).ports)) == (
        "eim-apdf-random,ports=1000-1999"
    )


@pytest.mark.parametrize(
    "label", ["public", "blocked", "fw-apdf", "eim-adf", "apdm-random-apdf", "adm-seq-eif"]
)
def test_labels_are_read_back(label) -> None:
    assert facts_of_label(label).label == label
    assert facts_of_label("?m-?f").label == "?m-?f"
