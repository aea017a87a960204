"""Multibase: the examples of the multibase specification, round trips, refusals."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pt.wire import multibase

DECENTRALIZE = b"Decentralize everything!!!"
YES = b"yes mani !"
ZEROS = b"\x00\x00yes mani !"
CASES = [
    ("f446563656e7472616c697a652065766572797468696e67212121", DECENTRALIZE),
    ("birswgzloorzgc3djpjssazlwmvzhs5dinfxgoijbee", DECENTRALIZE),
    ("z36UQrhJq9fNDS7DiAHM9YXqDHMPfr4EMArvt", DECENTRALIZE),
    ("uRGVjZW50cmFsaXplIGV2ZXJ5dGhpbmchISE", DECENTRALIZE),
    ("k2lcpzo5yikidynfl", YES),
    ("f0000796573206d616e692021", ZEROS),
    ("baaahszltebwwc3tjeaqq", ZEROS),
    ("k002lcpzo5yikidynfl", ZEROS),
    ("z117paNL19xttacUY", ZEROS),
    ("uAAB5ZXMgbWFuaSAh", ZEROS),
]


@pytest.mark.parametrize(("text", "data"), CASES)
def test_examples(text, data):
    assert multibase.decode(text) == data
    assert multibase.encode(text[0], data) == text


@pytest.mark.parametrize("text", ["F68656C6C6F", "BNBSWY3DP", "Kfvrsgql", "f68656C6c6f"])
def test_upper_case_reads_as_lower_case(text):
    assert multibase.decode(text) == multibase.decode(text.lower())


@given(st.sampled_from("fbkzu"), st.binary(max_size=64))
def test_round_trip(base, data):
    assert multibase.decode(multibase.encode(base, data)) == data


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x00",  # unknown base
        "f0",  # odd number of digits
        "fzz",
        "b1",
        "bab\n",
        "bac",  # spare bits set: a second spelling of one value
        "k_",
        "k 1",
        "z0",
        "u+/",
        "uAB",  # spare bits set
        "u=",
        "bé",
        "uéé",
        "f" + "0" * multibase.MAX_TEXT,
    ],
)
def test_refused(text):
    with pytest.raises(multibase.MultibaseError):
        multibase.decode(text)


def test_encode_refuses_an_unknown_base():
    with pytest.raises(multibase.MultibaseError):
        multibase.encode("m", b"")


@given(st.sampled_from("fFbBkKzu"), st.text(max_size=20))
def test_any_text_gives_bytes_or_the_error(base, text):
    try:
        data = multibase.decode(base + text)
    except multibase.MultibaseError:
        return
    assert isinstance(data, bytes)
