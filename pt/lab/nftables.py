"""nftables rules that make the kernel behave as a NAT or firewall spec says; text only, no root.

Conntrack alone maps and filters by address and port. Endpoint-independent and address-dependent
behaviour comes from dynamic maps that are learnt behind the source NAT, where the header already
has the outer port and `ct original` the inner endpoint: `known` leads a flow of a known inner
endpoint to its port, `inward` leads a new remote endpoint in.
"""

from __future__ import annotations

from typing import Final

from pt.lab.model.spec import NatSpec, SpecError

__all__ = ["WAN", "WAN6", "nat_rules", "require_kernel", "wall_rules"]

WAN: Final = "wan0"
WAN6: Final = "wan6"
_RANDOM: Final = "fully-random"
SEQUENCE: Final = 4096
"""Ports of a sequence before it begins again; nft cannot step a number through a range."""

# What the kernel cannot do: field → its word, and the only value it has.
_UNABLE: Final = {
    "maxage": ("maxage", 0.0),
    "refresh": ("refresh", "both"),
    "simopen": ("simopen", True),
    "frag": ("frag", True),
    "maximum": ("max", 0),
    "pool": ("pool", 1),
    "noise": ("noise", 0.0),
    "pmp": ("pmp", "off"),
    "box": ("box", ""),
}


def require_kernel(spec: NatSpec) -> None:
    """Check that the kernel engine can be `spec`.

    Raises: SpecError names what it cannot.
    """
    for field, (word, only) in _UNABLE.items():
        if getattr(spec, field) != only:
            raise SpecError(f"the kernel engine has no {word}=: use the user engine")
    if spec.allocation == "block":
        raise SpecError("the kernel engine has no port blocks: use ports=LOW-HIGH")
    if spec.hairpin == "internal" or (spec.hairpin == "on" and spec.filtering != "eif"):
        raise SpecError("the kernel engine has hairpin=on only with eif: use the user engine")
    if spec.overload and (spec.mapping != "apdm" or spec.filtering != "apdf"):
        raise SpecError("the kernel engine has overload= only with apdm-apdf")


def _sequence(spec: NatSpec) -> str:
    # `numgen … offset` would step by 256: it yields the number in the host's byte order.
    first = min(max(spec.low, 20000), spec.high)
    ports = [first + index * spec.step for index in range(SEQUENCE)]
    ports = [port for port in ports if port <= spec.high] or [first]
    pairs = ", ".join(f"{index} : {port}" for index, port in enumerate(ports))
    return f"numgen inc mod {len(ports)} map {{ {pairs} }}"


def _allocation(spec: NatSpec, outer: str, protocol: str) -> list[str]:
    """Return the rules that give a flow its outer port, the first that fits being taken."""
    head = f"meta l4proto {protocol}"
    rules = []
    if spec.mapping != "apdm":
        by = " . ip daddr" if spec.mapping == "adm" else ""
        rules.append(
            f"{head} snat to {outer} : ip saddr . {protocol} sport{by} map @known_{protocol}"
        )
    if spec.allocation == "seq":
        rules.append(f"{head} snat to {outer} : {_sequence(spec)}")
        return rules
    if spec.allocation == "preserve":
        rng = f"{protocol} sport {spec.low}-{spec.high}"
        used = "" if spec.overload else f" {protocol} sport != @used_{protocol}"
        rules.append(f"{head} {rng}{used} snat to {outer}")
    rules.append(f"{head} snat to {outer}:{spec.low}-{spec.high} {_RANDOM}")
    return rules


def _maps(spec: NatSpec, protocol: str) -> list[str]:
    flags = "flags dynamic,timeout; size 65535;"
    by = " . ipv4_addr" if spec.mapping == "adm" else ""
    lines = [f"set used_{protocol} {{ type inet_service; {flags} }}"]
    if spec.mapping != "apdm":
        key = f"ipv4_addr . inet_service{by}"
        lines.append(f"map known_{protocol} {{ type {key} : inet_service; {flags} }}")
    if spec.filtering != "apdf":
        key = "inet_service . ipv4_addr" if spec.filtering == "adf" else "inet_service"
        lines.append(f"map inward_{protocol} {{ type {key} : ipv4_addr . inet_service; {flags} }}")
    return lines


def _learning(spec: NatSpec, protocol: str, timeout: int) -> list[str]:
    head = f"meta l4proto {protocol} ct direction original"
    own = "ct original ip saddr . ct original proto-src"
    lasts = f"timeout {timeout}s"
    rules = [f"{head} update @used_{protocol} {{ {protocol} sport {lasts} }}"]
    if spec.mapping != "apdm":
        by = " . ip daddr" if spec.mapping == "adm" else ""
        rules.append(f"{head} update @known_{protocol} {{ {own}{by} {lasts} : {protocol} sport }}")
    if spec.filtering != "apdf":
        key = f"{protocol} sport" + (" . ip daddr" if spec.filtering == "adf" else "")
        rules.append(f"{head} update @inward_{protocol} {{ {key} {lasts} : {own} }}")
    return rules


def _block(kind: str, name: str, lines: list[str]) -> str:
    body = "".join(f"    {line}\n" for line in lines)
    return f"  {kind} {name} {{\n{body}  }}\n"


def _allowed(spec: NatSpec) -> list[str]:
    """Return the rules that stop what the network lets nobody send."""
    rules = []
    for protocol, ports in (("udp", spec.udp), ("tcp", spec.tcp)):
        if ports is not None:
            those = f" {protocol} dport != {{ {', '.join(map(str, sorted(ports)))} }}"
            how = "reject" if spec.unsolicited == "reject" else "drop"
            rules.append(f'iifname "lan*" meta l4proto {protocol}{those if ports else ""} {how}')
    return rules


def _own(spec: NatSpec, device: str) -> list[str]:
    """Return the rules for packets to the router itself: it must not take what is unsolicited."""
    rules = ["type filter hook input priority filter; policy accept;"]
    head = f'iifname "{device}" ct state new'
    if spec.unsolicited == "reject":
        rules += [f"{head} meta l4proto tcp reject with tcp reset", f"{head} reject"]
    elif spec.input == "drop":
        rules.append(f"{head} drop")
    return rules


def nat_rules(spec: NatSpec, outer: str) -> str:
    """Return the table of a NAT with the outer address `outer` on the device wan0.

    Raises: SpecError for what the kernel cannot.
    """
    require_kernel(spec)
    # Conntrack counts in whole seconds, and so do elements here.
    lasts = {"udp": max(1, round(spec.timeout)), "tcp": max(1, round(spec.tcpest))}
    both = ("udp", "tcp")
    maps = [line for protocol in both for line in _maps(spec, protocol)]
    alloc = [rule for protocol in both for rule in _allocation(spec, outer, protocol)]
    learn = [rule for protocol in both for rule in _learning(spec, protocol, lasts[protocol])]
    leave = ["type nat hook postrouting priority srcnat;", f'oifname "{WAN}" jump alloc']
    leave += (
        ['iifname "lan*" oifname "lan*" ct status dnat jump alloc'] if spec.hairpin == "on" else []
    )
    enter = ["type nat hook prerouting priority dstnat;"]
    sides = [f'iifname "{WAN}"']
    sides += [f'iifname "lan*" ip daddr {outer}'] if spec.hairpin == "on" else []
    by = " . ip saddr" if spec.filtering == "adf" else ""
    if spec.filtering != "apdf":
        enter += [
            f"{side} meta l4proto {each} dnat ip to {each} dport{by} map @inward_{each}"
            for side in sides
            for each in both
        ]
    passing = ["type filter hook forward priority filter; policy drop;", *_allowed(spec)]
    passing += ["ct state established,related accept", 'iifname "lan*" accept']
    passing += ["ct status dnat accept"]
    behind = ["type filter hook postrouting priority srcnat + 10;"]
    behind += [f'oifname != "{WAN}" return', *learn]
    return (
        "table ip box {\n"
        + "".join(f"  {line}\n" for line in maps)
        + _block("chain", "alloc", [*alloc, f"snat to {outer}"])
        + _block("chain", "leave", leave)
        + _block("chain", "learn", behind)
        + _block("chain", "enter", enter)
        + _block("chain", "pass", passing)
        + _block("chain", "own", _own(spec, WAN))
        + "}\n"
    )


def wall_rules(spec: NatSpec, family: int) -> str:
    """Return the table of a stateful firewall in front of public addresses.

    Raises: SpecError for what the kernel cannot.
    """
    require_kernel(spec)
    table, device = ("ip", WAN) if family == 4 else ("ip6", WAN6)
    if spec.kind == "public":
        return f"table {table} box {{\n}}\n"
    address = "ipv4_addr" if family == 4 else "ipv6_addr"
    peer = f" . {address}" if spec.filtering == "adf" else ""
    lines, learn, let_in = [], [], []
    for each, lasts in (("udp", spec.timeout), ("tcp", spec.tcpest)):
        if spec.filtering == "apdf":
            break
        kind = f"{address} . inet_service{peer}"
        flags = "flags dynamic,timeout; size 65535;"
        lines.append(f"set open_{each} {{ type {kind}; {flags} }}")
        far = f" . {table} daddr" if peer else ""
        near = f" . {table} saddr" if peer else ""
        own = f"{table} saddr . {each} sport{far} timeout {max(1, round(lasts))}s"
        learn.append(f'iifname "lan*" meta l4proto {each} update @open_{each} {{ {own} }}')
        let_in.append(f"meta l4proto {each} {table} daddr . {each} dport{near} @open_{each} accept")
    passing = ["type filter hook forward priority filter; policy drop;", *_allowed(spec)]
    passing += [*learn, "ct state established,related accept", 'iifname "lan*" accept']
    passing += [f'iifname "{device}" {rule}' for rule in let_in]
    if spec.unsolicited == "reject":
        passing += [f'iifname "{device}" meta l4proto tcp reject with tcp reset']
        passing += [f'iifname "{device}" reject']
    return (
        f"table {table} box {{\n"
        + "".join(f"  {line}\n" for line in lines)
        + _block("chain", "pass", passing)
        + "}\n"
    )
