"""Laboratory: hosts, NATs and links in network namespaces without any uplink (docs/lab.md).

Nothing of the product imports it; it needs Linux, root, and for some parts iproute2, nftables and
util-linux.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pt.lab.lab import Lab, LabError
    from pt.lab.machine import Machine
    from pt.lab.netns import Host, Lan, unavailable

__all__ = ["Host", "Lab", "LabError", "Lan", "Machine", "unavailable"]

_HOME = {
    "Host": "netns",
    "Lab": "lab",
    "LabError": "lab",
    "Lan": "netns",
    "Machine": "machine",
    "unavailable": "netns",
}


def __getattr__(name: str) -> object:
    """Import on first use: the router process, whose start is part of every test, needs little."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module  # noqa: PLC0415  # that is the point

    value: object = getattr(import_module(f"pt.lab.{_HOME[name]}"), name)
    return value
