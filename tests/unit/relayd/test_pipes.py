from __future__ import annotations

import os
import resource

import pytest

from pt.relayd import pipes
from pt.relayd.pipes import KEEP, LEAST_LEN, MOST, PATIENCE, Pipe, PipePool, default_limit
from tests.unit.relayd.rig import open_descriptors


@pytest.fixture(autouse=True)
def nothing_is_left_open():
    before = open_descriptors()
    yield
    assert open_descriptors() == before


def test_a_pipe_is_large_and_never_blocks():
    pipe = Pipe()
    assert pipe.length >= LEAST_LEN
    with pytest.raises(BlockingIOError):
        os.read(pipe.read_fd, 1)
    assert not os.get_inheritable(pipe.read_fd)
    pipe.close()


def test_the_last_one_given_is_taken_next():
    pool = PipePool(4)
    first, second = pool.take(), pool.take()
    assert first is not None
    assert second is not None
    assert pool.lent == 2
    pool.give(first)
    pool.give(second)
    assert pool.lent == 0
    assert pool.take() is second
    pool.give(second)
    pool.close()


def test_there_are_so_many_and_no_more():
    pool = PipePool(2)
    lent = [pool.take(), pool.take()]
    assert pool.take() is None
    assert pool.refused == 1
    pool.drop(lent[0])
    again = pool.take()
    assert again is not None
    for pipe in (again, lent[1]):
        pool.give(pipe)
    pool.close()


def test_empty_pipes_are_kept_within_bounds():
    pool = PipePool(KEEP + 10)
    lent = [pool.take() for _ in range(KEEP + 10)]
    before = len(open_descriptors())
    for pipe in lent:
        pool.give(pipe)
    assert len(open_descriptors()) == before - 2 * 10
    pool.close()


def test_a_kernel_that_gives_small_pipes_only_is_not_asked_all_the_time(monkeypatch):
    made = []

    class Small(Pipe):
        def __init__(self) -> None:
            super().__init__()
            self.length = 8192
            made.append(self)

    monkeypatch.setattr(pipes, "Pipe", Small)
    pool = PipePool(10)
    for _ in range(PATIENCE + 1):
        assert pool.take() is None
    assert len(made) == 1
    assert pool.take() is None
    assert len(made) == 2
    assert pool.lent == 0


def test_no_descriptors_left_is_no_error(monkeypatch):
    def none_left(flags: int) -> tuple[int, int]:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(os, "pipe2", none_left)
    assert PipePool(4).take() is None


def test_a_size_that_is_not_allowed_is_made_smaller(monkeypatch):
    asked = []
    real = pipes.fcntl.fcntl

    def strict(fd: int, command: int, value: int = 0) -> int:
        if command == pipes._SET_SIZE:
            asked.append(value)
            if value > 256 * 1024:
                raise PermissionError(1, "Operation not permitted")
        return real(fd, command, value)

    monkeypatch.setattr(pipes.fcntl, "fcntl", strict)
    pipe = Pipe()
    assert asked == [1024 * 1024, 256 * 1024]
    assert pipe.length == 256 * 1024
    pipe.close()


def test_without_splice_there_are_none(monkeypatch):
    monkeypatch.delattr(os, "splice")
    pool = PipePool(10)
    assert pool.take() is None
    assert pool.limit == 0


@pytest.mark.parametrize(
    ("soft", "limit"), [(1024, 64), (65536, MOST), (resource.RLIM_INFINITY, MOST)]
)
def test_the_limit_follows_from_the_descriptors(monkeypatch, soft, limit):
    monkeypatch.setattr(resource, "getrlimit", lambda _: (soft, soft))
    assert default_limit() == limit
