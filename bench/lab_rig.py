"""The rig of the end-to-end tests on hosts of the laboratory: s1 and s2 relay, s3 is anybody."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pt.lab import Lab
from pt.lab.machine import Machine
from tests.e2e.relay_rig import RelayRig

NAMES = {"r1": "s1", "r2": "s2", "c": "s3"}


class _Hosts:
    """The laboratory's, by the names of the rig."""

    def __init__(self, lab: Lab) -> None:
        self._lab = lab

    def __getitem__(self, name: str) -> Machine:
        return self._lab[NAMES.get(name, name)]


@contextmanager
def lab_rig(links: dict[str, str], *, seed: int = 1, **sides: str) -> Iterator[RelayRig]:
    """Build a laboratory with sides a and b, and the rig on it."""
    with (
        Lab(public=3, links=links, seed=seed, **sides) as lab,
        tempfile.TemporaryDirectory() as tmp,
    ):
        rig = RelayRig(_Hosts(lab), Path(tmp))  # type: ignore[arg-type]
        try:
            yield rig
        finally:
            rig.close()
