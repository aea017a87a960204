from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pt.quic.packets import CID_LENGTH
from pt.quic.routing import Routes, is_quic, runs

HERE, THERE = ("11.0.0.1", 1), ("11.0.0.2", 2)
ONE, TWO = b"1" * CID_LENGTH, b"2" * CID_LENGTH


def short(cid: bytes, size: int = 30) -> bytes:
    return (b"\x40" + cid).ljust(size, b".")


def long(cid: bytes, size: int = 90) -> bytes:
    return (b"\xc0\0\0\0\x01" + bytes((len(cid),)) + cid + b"\0\0").ljust(size, b".")


def test_what_may_be_quic() -> None:
    assert [is_quic(first) for first in (0x00, 0x01, 0x3F, 0x40, 0x80, 0xC0, 0xFF)] == [
        False,
        False,
        False,
        True,
        True,
        True,
        True,
    ]


def test_neighbours_of_one_connection_stay_together() -> None:
    same = short(ONE) * 5
    assert list(runs(same, 30)) == [same]
    assert list(runs(same + b"\x40" + ONE, 30)) == [same + b"\x40" + ONE]
    mixed = short(ONE) * 2 + short(TWO) + b"\0".ljust(30) + short(ONE)
    assert list(runs(mixed, 30)) == [
        short(ONE) * 2,
        short(TWO),
        b"\0".ljust(30),
        short(ONE),
    ]
    assert list(runs(long(ONE) * 2, 90)) == [long(ONE)] * 2


@given(st.binary(max_size=400), st.integers(1, 90))
def test_nothing_is_lost_between_runs(data: bytes, size: int) -> None:
    found = list(runs(data, size))
    assert b"".join(found) == data
    assert all(found)
    assert all(len(run) % size == 0 for run in found[:-1])


@given(
    st.lists(
        st.sampled_from([short(ONE), short(TWO), long(ONE, 30), b"\0".ljust(30)]), max_size=20
    ),
    st.integers(1, 30),
)
def test_a_run_is_of_one_connection(datagrams: list[bytes], last: int) -> None:
    if datagrams:
        datagrams[-1] = datagrams[-1][:last]
    wanted: list[bytes] = []
    for before, datagram in zip([b"", *datagrams], datagrams, strict=False):
        same = datagram[0] == 0x40 and datagram[: 1 + CID_LENGTH] == before[: 1 + CID_LENGTH]
        if same and len(datagram) > CID_LENGTH:
            wanted[-1] += datagram
        else:
            wanted.append(datagram)
    assert list(runs(b"".join(datagrams), 30)) == wanted


def test_a_connection_is_found_by_its_ids() -> None:
    routes: Routes[str] = Routes()
    routes.issued("a", ONE)
    routes.issued("b", TWO)
    assert routes.find(short(ONE)) == "a"
    assert routes.find(long(TWO)) == "b"
    assert routes.find(long(b"another")) is None
    routes.retired("b", ONE)  # not its own
    assert routes.find(short(ONE)) == "a"
    routes.retired("a", ONE)
    assert routes.find(short(ONE)) is None


def test_a_connection_is_found_by_its_address() -> None:
    routes: Routes[str] = Routes()
    routes.at("a", HERE)
    routes.at("b", HERE)
    assert routes.all_at(HERE) == ["a", "b"]
    assert routes.all_at(THERE) == []
    routes.left("a", HERE)
    routes.left("a", HERE)
    routes.left("c", THERE)
    assert routes.all_at(HERE) == ["b"]


def test_nothing_is_left_of_what_is_forgotten() -> None:
    routes: Routes[str] = Routes()
    routes.issued("a", ONE)
    routes.issued("a", TWO)
    routes.issued("b", TWO)  # taken over
    routes.at("a", HERE)
    routes.forget("a", HERE)
    routes.forget("c", THERE)
    assert routes.find(short(ONE)) is None
    assert routes.find(short(TWO)) == "b"
    assert routes.all_at(HERE) == []
    routes.forget("b", THERE)
    assert not any(vars(routes).values())


@given(st.binary(min_size=1, max_size=60))
def test_junk_belongs_to_nobody(data: bytes) -> None:
    assert Routes[str]().find(data) is None
