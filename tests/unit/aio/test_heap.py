"""Page faults are counted, in processes of their own."""

from __future__ import annotations

import subprocess
import sys

import pytest

from pt.aio.heap import KEPT, keep_heap

PROGRAM = """
import asyncio, resource, sys
from pt.aio.heap import keep_heap
from pt.aio.udp import UdpPort

async def bulk():
    port = UdpPort(("127.0.0.1", 0))
    port.use_trains(lambda *_: None, lambda: None)
    port.close()

if sys.argv[1] == "keep":
    assert keep_heap()
elif sys.argv[1] == "bulk":
    asyncio.run(bulk())
for turn in range(101):
    buffers = [bytes(64 * 1024) for _ in range(int(sys.argv[2]))]
    del buffers
    if not turn:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
PAGES = 16  # of each buffer


def faults(how: str, buffers: int) -> int:
    argv = [sys.executable, "-c", PROGRAM, how, str(buffers)]
    return int(subprocess.run(argv, check=True, capture_output=True, text=True).stdout)


def test_buffers_that_come_and_go_are_not_paged_in_each_time() -> None:
    if not keep_heap():
        pytest.skip("the C library is not glibc")
    assert faults("leave", 16) > 100 * PAGES  # else there would be nothing to do
    assert faults("keep", 16) < 100
    assert faults("bulk", 16) < 100  # and whoever reads trains has it so


def test_no_more_than_its_bound_is_kept() -> None:
    if not keep_heap():
        pytest.skip("the C library is not glibc")
    assert faults("keep", 2 * KEPT // (64 * 1024)) > 100 * PAGES
