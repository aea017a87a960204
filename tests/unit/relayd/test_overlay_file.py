"""The overlay's file: replaced whole, read line by line, one process at a time."""

from __future__ import annotations

import pytest

from pt.overlay.state import State
from pt.overlay.storage import Entry
from pt.relayd.overlay_file import OverlayFile

HEAD = State(bytes(range(32)), (("11.0.0.7", 4001),))
RECORDS = [(bytes([n]) * 32, Entry(bytes([n]) * 700, 0, 2e9 + n, f"11.0.0.{n}")) for n in range(5)]


def plain(records):
    return [(key, one.value, one.expires, one.source) for key, one in records]


def written(tmp_path) -> OverlayFile:
    file = OverlayFile(tmp_path / "home")
    assert file.lock()
    file.write(HEAD, RECORDS)
    return file


def read(file: OverlayFile):
    with file.open() as reader:
        return file.head(reader), plain(file.records(reader))


def test_what_was_written_comes_back(tmp_path):
    file = written(tmp_path)
    assert read(file) == (HEAD, plain(RECORDS))
    assert file.damaged == 0
    assert file.path.stat().st_mode & 0o777 == 0o600
    assert sorted(one.name for one in file.path.parent.iterdir()) == [
        "overlay.jsonl",
        "overlay.lock",
    ]
    file.close()


def test_no_file_is_no_error(tmp_path):
    file = OverlayFile(tmp_path)
    assert file.lock()
    assert file.open() is None
    file.close()


def test_one_process_at_a_time(tmp_path):
    first, second = OverlayFile(tmp_path), OverlayFile(tmp_path)
    assert first.lock()
    assert not second.lock()
    second.close()
    first.close()
    assert second.lock()
    second.close()


def test_a_write_that_fails_leaves_the_old_file(tmp_path):
    file = written(tmp_path)

    def some():
        yield RECORDS[0]
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        file.write(State(b"x" * 32, ()), some())
    assert read(file) == (HEAD, plain(RECORDS))
    assert not file.path.with_suffix(".new").exists()
    file.close()


def test_damage_costs_the_lines_it_is_in(tmp_path):
    file = written(tmp_path)
    lines = file.path.read_bytes().splitlines(keepends=True)
    lines[2] = lines[2].replace(b'"value"', b'"VALUE"')
    lines[3] = b"\xff\x00" * 40000 + b"\n"  # longer than any line
    file.path.write_bytes(b"".join(lines)[:-10])  # and the last one is cut off
    assert read(file) == (HEAD, plain([RECORDS[0], RECORDS[3]]))
    assert file.damaged == 3
    file.close()


def test_a_damaged_head(tmp_path):
    file = written(tmp_path)
    file.path.write_bytes(b"\x80\x04\x95pickle" + file.path.read_bytes())
    with file.open() as reader:
        assert file.head(reader) is None
    file.close()
