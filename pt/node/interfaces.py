"""The addresses of this machine, for expanding a wildcard listener into what others can dial."""

from __future__ import annotations

__all__ = ["expand"]


def expand(host: str) -> list[str]:
    """The concrete addresses behind a listening `host`: itself, or all interfaces for a wildcard.

    Loopback addresses are left out as long as the family has another; IPv6 link-local ones always,
    since they mean nothing without the interface.
    """
    if host not in ("0.0.0.0", "::"):
        return [host]
    import ifaddr  # noqa: PLC0415  # not needed by who never listens on a wildcard

    wanted_six = host == "::"
    usual: list[str] = []
    loopback: list[str] = []
    for adapter in ifaddr.get_adapters():
        for address in adapter.ips:
            six = isinstance(address.ip, tuple)
            if six != wanted_six:
                continue
            text = str(address.ip[0] if six else address.ip)
            if text.startswith("fe80:"):
                continue
            (loopback if text.startswith("127.") or text == "::1" else usual).append(text)
    return usual or loopback
