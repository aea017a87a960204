"""Specs: what is printed parses to the same, and what is wrong is named with what there is."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pt.lab.model.spec import (
    ALLOCATIONS,
    FILTERINGS,
    MAPPINGS,
    PRESETS,
    NatSpec,
    SpecError,
    parse_link,
    parse_nat,
    print_nat,
)

times = st.floats(0.001, 1e6)
ports = st.one_of(st.none(), st.frozensets(st.integers(2, 65535), max_size=3))
boxes = st.builds(
    NatSpec,
    mapping=st.sampled_from(MAPPINGS),
    filtering=st.sampled_from(FILTERINGS),
    allocation=st.sampled_from(ALLOCATIONS),
    hairpin=st.sampled_from(["on", "off", "internal"]),
    timeout=times,
    new=times,
    maxage=st.one_of(st.just(0.0), times),
    refresh=st.sampled_from(["both", "out"]),
    unsolicited=st.sampled_from(["drop", "reject"]),
    input=st.sampled_from(["drop", "accept"]),
    udp=ports,
    tcp=ports,
    simopen=st.booleans(),
    frag=st.booleans(),
    low=st.integers(1, 1000),
    high=st.integers(2000, 65535),
    block=st.integers(1, 1000),
    maximum=st.integers(0, 9999),
    step=st.integers(1, 9),
    pool=st.integers(1, 4),
    pooling=st.sampled_from(["paired", "arbitrary"]),
    overload=st.booleans(),
    box=st.sampled_from(["", "lab.nat:Mine"]),
    pmp=st.sampled_from(["off", "on", "pmp", "pcp"]),
    noise=st.sampled_from([0.0, 2.5]),
)


@given(st.lists(boxes, min_size=1, max_size=3))
def test_what_is_printed_parses_to_the_same(chain) -> None:
    assert parse_nat(print_nat(tuple(chain))) == tuple(chain)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("eim", "eim-apdf-preserve"),
        ("apdm", "apdm-apdf-random"),
        ("adm-eif", "adm-eif-random"),
        ("apdm-seq,step=3", "apdm-apdf-seq,step=3"),
        ("symmetric,timeout=30", "apdm-apdf-random,timeout=30"),
        ("linux", "apdm-apdf-preserve,new=30,overload=1"),
        ("tcp443", "eim-apdf-preserve,udp=0,tcp=443"),
        ("eim,tcp=443/80", "eim-apdf-preserve,tcp=80/443"),
        ("eim,ports=5000-5999", "eim-apdf-preserve,ports=5000-5999"),
        ("fw", "fw-apdf"),
        ("fw-adf,v6=eif", "fw-adf,v6=eif"),
        ("public", "public"),
        ("v6", "none,v6=apdf"),
        ("eim + symmetric", "eim-apdf-preserve+apdm-apdf-random"),
    ],
)
def test_words(text, expected) -> None:
    assert print_nat(parse_nat(text)) == expected


def test_presets_parse() -> None:
    for text in PRESETS:
        assert parse_nat(text)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("cone", "eim|adm|apdm"),
        ("eim-foo", "eif|adf|apdf"),
        ("eim-eif-random-x", "preserve|seq|random|block"),
        ("eim,hairpin=maybe", "on, off or internal"),
        ("eim,colour=red", "hairpin, timeout"),
        ("eim,timeout", "no option 'timeout'"),
        ("eim,timeout=x", "seconds"),
        ("eim,timeout=0", "more than 0"),
        ("eim,ports=5", "LOW-HIGH"),
        ("eim,ports=9-5", "not a range"),
        ("eim,pool=99", "1 to 16"),
        ("eim,box=nowhere", "MODULE:CLASS"),
        ("eim,block=0", "not within"),
        ("apdm-block,block=64,ports=1-9", "not within"),
        ("eim,step=0", "1 to 1024"),
        ("eim,tcp=70000", "joined by /"),
        ("eim+fw", "only NATs"),
        ("fw+eim", "begins with a NAT"),
        ("eim+eim,v6=open", "without v6="),
        ("eim+eim+eim+eim+eim", "at most 4"),
    ],
)
def test_what_is_wrong_is_named(text, named) -> None:
    with pytest.raises(SpecError) as error:
        parse_nat(text)
    assert named in str(error.value)


def test_links() -> None:
    link = parse_link("delay=10,jitter=2,loss=1,rate=20,mtu=1300,hops=3,dup=2,reorder=5,burst=3")
    assert (link.shape.delay, link.shape.jitter, link.shape.loss) == (0.01, 0.002, 0.01)
    assert (link.shape.rate, link.shape.mtu, link.hops) == (20e6, 1300, 3)
    assert (link.shape.duplicate, link.shape.reorder, link.shape.burst) == (0.02, 0.05, 3)
    assert parse_link("").shape.transparent
    for text, named in (
        ("delay=x", "milliseconds"),
        ("speed=1", "delay, jitter"),
        ("loss=101", "possible"),
        ("mtu=5", "possible"),
        ("hops=99", "0 to 60"),
    ):
        with pytest.raises(SpecError) as error:
            parse_link(text)
        assert named in str(error.value)
