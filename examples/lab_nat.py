"""A NAT of one's own: mapping and filtering by the remote /24, for `box=lab_nat:BySubnet`.

    cd examples; pt lab verify eim,box=lab_nat:BySubnet

Whatever else the spec says (ports, timeouts, hairpin …) stays as it is. `Box` documents what may
be replaced: `key`, `admits` and `allocate`.
"""

from __future__ import annotations

from collections.abc import Hashable

from pt.lab.model.bindings import Binding
from pt.lab.model.box import Box
from pt.lab.model.packet import Endpoint


class BySubnet(Box):
    """One outer port for each remote /24, open to that /24."""

    def key(self, protocol: int, internal: Endpoint, remote: Endpoint) -> Hashable:
        """Return what packets of one binding have in common."""
        return protocol, internal, remote[0][:3]

    def admits(self, binding: Binding, remote: Endpoint, now: float) -> bool:
        """Whether `remote` may send in: its network was sent to lately."""
        return any(
            host[:3] == remote[0][:3] and until > now for host, until in binding.hosts.items()
        )
