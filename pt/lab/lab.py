"""A laboratory in one line: hosts, NATs and links, up in a fraction of a second.

    with Lab(a="eim-apdf", b="apdm-random,timeout=30", link="delay=10,loss=1") as lab:
        lab["s1"].popen([...])                  # a public host: 11.1.0.1 and 11.1.1.1
        lab["a"].run([...])                     # 192.168.1.10, behind its NAT
        lab.flush("a", renumber=True)           # the NAT reboots and gets another address

The words are those of docs/lab.md. Hosts are namespaces without a way out; whatever ends this
process ends them and what runs on them.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

from pt.lab.model.plan import make_plan
from pt.lab.remote import Engine, LabError, Remote, retire, start_router

__all__ = ["Engine", "Lab", "LabError"]


class Lab(Remote):
    """Use it in a `with` block; hosts by name, in brackets.

    sides: NATs by one letter. public: hosts in the open. lan: hosts a side. overlap: all private
    networks have the same addresses. cgn: one NAT between all sides and the internet. link: of
    every side and public host; links: of single ones. engine: user for every behaviour, kernel for
    throughput. seed: everything random in NATs and links. trace: file for bindings and drops.
    pcap: file for packets in the middle of the internet.

    Raises: SpecError for words that are none; LabError.
    """

    def __init__(
        self,
        *,
        public: int = 2,
        lan: int = 1,
        overlap: bool = False,
        cgn: str = "",
        link: str = "",
        links: Mapping[str, str] | None = None,
        engine: Engine = "user",
        seed: int = 1,
        trace: str | os.PathLike[str] = "",
        pcap: str | os.PathLike[str] = "",
        **sides: str,
    ) -> None:
        super().__init__()
        self._words: dict[str, Any] = {
            "sides": sides,
            "public": public,
            "lan": lan,
            "overlap": overlap,
            "cgn": cgn,
            "link": link,
            "links": dict(links or {}),
        }
        make_plan(**self._words)  # wrong words are told at once, and here
        self._engine = engine
        self._seed = seed
        self._trace = os.path.abspath(trace) if trace else ""
        self._pcap = os.path.abspath(pcap) if pcap else ""
        self._router: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self._router = start_router(
            self,
            self._words,
            engine=self._engine,
            seed=self._seed,
            trace=self._trace,
            pcap=self._pcap,
        )
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """End what runs on the hosts, and the hosts; may be called twice."""
        router, self._router = self._router, None
        if router is None:
            return
        self.end_programs()
        with contextlib.suppress(LabError):  # it has ended, with what it could write
            self.save()
        self.disconnect()
        retire(router)
