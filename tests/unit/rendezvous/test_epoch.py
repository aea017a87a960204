from __future__ import annotations

import hashlib

import pytest
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from hypothesis import given
from hypothesis import strategies as st

from pt.identity.keys import PrivateKey
from pt.rendezvous.epoch import (
    EPOCH,
    SKEW,
    EpochKeys,
    epoch_at,
    epochs_to_publish,
    epochs_to_search,
)
from pt.rendezvous.name import NameKeys

KEYS = NameKeys.from_master(bytes(range(32)))
MIDNIGHT = 20_000 * EPOCH
HOUR = 3600


def test_keys_are_those_of_the_docstring() -> None:
    """With another implementation of HKDF."""
    info = b"epoch" + (20_000).to_bytes(8, "big")
    both = HKDF(SHA256(), 64, b"pt/2", info).derive(KEYS.master)
    got = EpochKeys.derive(KEYS, 20_000)
    public = PrivateKey.generate(both[:32]).public
    assert got.signer.public == public
    assert got.seal_key == both[32:]
    assert got.name == b"\0\x24\x08\1\x12\x20" + public.data
    assert got.routing_key == b"/ipns/" + got.name
    assert got.overlay_key == hashlib.sha256(got.routing_key).digest()


def test_golden() -> None:
    """Two versions of `pt` must meet: these bytes never change."""
    got = EpochKeys.derive(KEYS, 20_000)
    assert got.overlay_key.hex() == (
        "4680a1b527ece9ff0ae3e216171168008789da1213a1c36c19f302bbd45587b2"
    )


def test_all_differ() -> None:
    made = [
        EpochKeys.derive(keys, epoch)
        for keys in (KEYS, NameKeys.from_master(bytes(32)))
        for epoch in (0, 1, 256, 20_000)
    ]
    values = [value for each in made for value in (each.name, each.seal_key, each.overlay_key)]
    assert len(set(values)) == len(values)
    assert not set(values) & {KEYS.record_key, KEYS.membership, KEYS.master}


def test_secrets_do_not_show() -> None:
    got = EpochKeys.derive(KEYS, 1)
    assert repr(got) == "EpochKeys(epoch=1)"


def test_publish() -> None:
    assert epochs_to_publish(MIDNIGHT) == (20_000, 20_001)
    assert epochs_to_publish(MIDNIGHT - 0.001) == (19_999, 20_000)
    assert epochs_to_publish(-5.0) == (0, 1)


@pytest.mark.parametrize(
    ("after_midnight", "epochs"),
    [
        (12 * HOUR, (20_000,)),
        (0, (20_000, 19_999)),
        (SKEW - 1, (20_000, 19_999)),
        (SKEW, (20_000,)),
        (-1, (19_999, 20_000)),
        (-SKEW, (19_999, 20_000)),
        (-SKEW - 1, (19_999,)),
    ],
)
def test_search(after_midnight: int, epochs: tuple[int, ...]) -> None:
    assert epochs_to_search(MIDNIGHT + after_midnight) == epochs


def test_search_without_a_clock() -> None:
    assert epochs_to_search(0.0) == (0,)
    assert epochs_to_search(MIDNIGHT, EPOCH) == (20_000, 19_999, 20_001)


@given(st.floats(0, 4e9), st.floats(-SKEW, EPOCH))
def test_clocks_that_differ_meet(exposer: float, ahead: float) -> None:
    """The searcher's clock is two hours behind at most, a day ahead at most."""
    searcher = exposer + ahead
    assert set(epochs_to_publish(exposer)) & set(epochs_to_search(searcher))


@given(st.floats(0, 4e9), st.floats(-HOUR, HOUR), st.floats(-HOUR, HOUR))
def test_each_clock_an_hour_wrong(now: float, exposer: float, searcher: float) -> None:
    current = epoch_at(now + exposer)
    assert current in epochs_to_search(now + searcher)
