from __future__ import annotations

import json
import os
import threading
from pathlib import Path

import pytest

from pt.node import address_book
from pt.node.address_book import FILE, FRESH, MAX_NAMES, AddressBook, Remembered, dump, load
from pt.node.state import StateDir

DNSADDR = "/dnsaddr/boot.test"


def book(path: Path) -> tuple[AddressBook, list[str]]:
    said: list[str] = []
    return AddressBook(StateDir(path), said.append), said


def test_what_is_put_is_there_for_the_next_process(tmp_path: Path) -> None:
    one, said = book(tmp_path / "home")
    assert one.get("relay.test") is None
    one.put("relay.test", ["11.0.0.7", "fd11::7"], 1000)
    one.put(DNSADDR, ["/dns4/r.boot.test/tcp/4001"], 1001)
    other, _ = book(tmp_path / "home")
    for each in (one, other):
        assert each.get("relay.test") == Remembered(("11.0.0.7", "fd11::7"), 1000)
        assert each.get(DNSADDR) == Remembered(("/dns4/r.boot.test/tcp/4001",), 1001)
    assert (tmp_path / "home" / FILE).stat().st_mode & 0o777 == 0o600
    one.put("relay.test", ["11.0.0.8"], 1002, keep=lambda text: ":" in text)
    assert one.get("relay.test") == Remembered(("11.0.0.8", "fd11::7"), 1002)
    one.put("relay.test", [], 1003)
    assert one.get("relay.test") is None
    assert book(tmp_path / "home")[0].get("relay.test") is None
    assert not said


def test_processes_do_not_undo_each_other(tmp_path: Path) -> None:
    books = [book(tmp_path)[0] for _ in range(8)]
    for each in books:
        each.get("x")  # all have read the empty file

    def write(number: int) -> None:
        books[number].put(f"h{number}.test", ["11.0.0.1"], number)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    last, _ = book(tmp_path)
    assert all(last.get(f"h{number}.test") for number in range(8))


def test_the_same_answer_is_written_once_an_hour(tmp_path: Path) -> None:
    one, _ = book(tmp_path)
    one.put("a.test", ["11.0.0.1"], 1000)
    (tmp_path / FILE).unlink()
    one.put("a.test", ["11.0.0.1"], 1000 + FRESH - 1)
    assert not (tmp_path / FILE).exists()
    one.put("a.test", ["11.0.0.1"], 1000 + FRESH)
    assert (tmp_path / FILE).exists()


def test_a_clock_that_was_set_back_does_not_freeze_it(tmp_path: Path) -> None:
    one, _ = book(tmp_path)
    one.put("a.test", ["11.0.0.1"], 9_000_000)
    one.put("a.test", ["11.0.0.1"], 1000)
    assert one.get("a.test") == Remembered(("11.0.0.1",), 1000)


def test_the_name_used_longest_ago_makes_room(tmp_path: Path) -> None:
    many = {f"h{n}.test": Remembered(("11.0.0.1",), 1000 + n) for n in range(MAX_NAMES)}
    StateDir(tmp_path).rewrite(FILE, lambda _: dump(many))
    one, _ = book(tmp_path)
    one.put("new.test", ["11.0.0.2"], 5000)
    names = load((tmp_path / FILE).read_bytes())
    assert names is not None
    assert len(names) == MAX_NAMES
    assert "h0.test" not in names
    assert {"h1.test", "new.test"} <= names.keys()


def test_no_more_addresses_are_kept_than_are_dialed(tmp_path: Path) -> None:
    one, _ = book(tmp_path)
    one.put("a.test", [f"11.0.0.{n}" for n in range(99)], 1000)
    kept = book(tmp_path)[0].get("a.test")
    assert kept is not None
    assert len(kept.addresses) == address_book.MAX_ADDRESSES


GOOD = {"addresses": ["11.0.0.1"], "when": 1}
DAMAGE = {
    "nothing": b"",
    "cut short": dump({"a.test": Remembered(("11.0.0.1",), 1)})[:-9],
    "no JSON": b"\xff\xfe{}",
    "no object": b"[1]",
    "another version": json.dumps({"version": 2, "names": {}}).encode(),
    "no names": json.dumps({"version": 1}).encode(),
    "names as a list": json.dumps({"version": 1, "names": [1]}).encode(),
    "no address": json.dumps({"version": 1, "names": {"a": {**GOOD, "addresses": ["b"]}}}).encode(),
    "text": json.dumps({"version": 1, "names": {"a": {**GOOD, "addresses": "11.0.0.1"}}}).encode(),
    "an IP for a dnsaddr": json.dumps({"version": 1, "names": {DNSADDR: GOOD}}).encode(),
    "no time": json.dumps({"version": 1, "names": {"a": {"addresses": []}}}).encode(),
    "endless time": b'{"version": 1, "names": {"a": {"addresses": [], "when": 1e999}}}',
    "NaN": b'{"version": 1, "names": {"a": {"addresses": [], "when": NaN}}}',
    "deep": b"[" * 100_000,
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_file_is_warned_of_once_and_begun_anew(tmp_path: Path, kind: str) -> None:
    StateDir(tmp_path).rewrite(FILE, lambda _: DAMAGE[kind])
    one, said = book(tmp_path)
    assert one.get("a.test") is None
    one.put("a.test", ["11.0.0.1"], 1000)
    assert one.get("a.test") is not None
    assert len(said) == 1
    assert str(tmp_path / FILE) in said[0]
    other, unsaid = book(tmp_path)
    assert other.get("a.test") is not None
    assert not unsaid


def test_an_unusable_file_is_warned_of_and_names_are_known_all_the_same(tmp_path: Path) -> None:
    one, said = book(tmp_path)
    one.put("a.test", ["11.0.0.1"], 1000)
    os.chmod(tmp_path / FILE, 0o644)
    other, said = book(tmp_path)
    assert other.get("a.test") is None
    other.put("a.test", ["11.0.0.1"], 1000)
    assert len(said) == 1
    assert "chmod 600" in said[0]
