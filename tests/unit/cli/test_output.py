from __future__ import annotations

import contextlib
import io
import os
from pathlib import Path

import pytest

from pt.cli.output import LineWriter, use_colour


@pytest.fixture
def pipe():
    reader, writer = os.pipe()
    yield reader, writer
    for fd in (reader, writer):
        with contextlib.suppress(OSError):
            os.close(fd)


def test_lines_arrive(pipe) -> None:
    reader, writer = pipe
    out = LineWriter(writer, str)
    out.line("one")
    out.line("zwei ✓")
    assert os.read(reader, 100).decode() == "one\nzwei ✓\n"


def test_a_full_pipe_never_blocks_and_the_loss_is_told(pipe) -> None:
    reader, writer = pipe
    out = LineWriter(writer, lambda count: f"{count} dropped")
    for number in range(5000):  # far more than a pipe holds; would hang if it blocked
        out.line(f"line {number} " + "x" * 80)
    data = b""
    while not data.endswith(b"\n") or len(data) < 50_000:
        data += os.read(reader, 65536)
    kept = data.decode().splitlines()
    assert [line.split()[1] for line in kept] == [str(n) for n in range(len(kept))]
    out.line("after")
    notice, after = os.read(reader, 1000).decode().splitlines()
    assert notice == f"{5000 - len(kept)} dropped"
    assert after == "after"


def test_a_long_line_is_whole(pipe) -> None:
    reader, writer = pipe
    LineWriter(writer, str).line("y" * 20_000)
    assert os.read(reader, 65536) == b"y" * 20_000 + b"\n"


def test_a_reader_that_went_away_is_no_error(pipe) -> None:
    reader, writer = pipe
    out = LineWriter(writer, str)
    os.close(reader)
    out.line("a")
    out.line("b")


def test_a_closed_descriptor_is_no_error() -> None:
    LineWriter(987, str).line("nowhere")


def test_a_file_takes_everything(tmp_path: Path) -> None:
    with (tmp_path / "log").open("w") as file:
        out = LineWriter.of(file, str)
        for _ in range(2000):
            out.line("z" * 99)
    assert (tmp_path / "log").stat().st_size == 200_000


def test_what_cannot_be_encoded_is_replaced(pipe) -> None:
    reader, writer = pipe
    LineWriter(writer, str, encoding="ascii").line("ok ✓")
    assert os.read(reader, 100) == b"ok ?\n"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("tty", "env", "colour"),
    [
        (True, {}, True),
        (False, {}, False),
        (True, {"NO_COLOR": "1"}, False),
        (True, {"NO_COLOR": ""}, True),
        (True, {"TERM": "dumb"}, False),
        (False, {"FORCE_COLOR": "1"}, True),
        (False, {"FORCE_COLOR": "1", "NO_COLOR": "1"}, False),
    ],
)
def test_colour(tty: bool, env: dict, colour: bool) -> None:
    assert use_colour(Terminal() if tty else io.StringIO(), env) is colour
