"""The words by which NATs and links are named (RFC 4787, 5382, 6092), parsed and printed.

A NAT: `eim-apdf`, `apdm-adf-random,timeout=30`, `linux`, `fw-apdf,v6=apdf`; a chain, inner first:
`eim-apdf+apdm-random,max=64`. A link: `delay=10,loss=1,rate=20`. docs/lab.md explains every word.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

from pt.lab.model.pipe import Shape

__all__ = [
    "LINK_OPTIONS",
    "PRESETS",
    "Filtering",
    "LinkSpec",
    "MappingKind",
    "NatSpec",
    "SpecError",
    "parse_link",
    "parse_nat",
    "print_nat",
]

MappingKind = Literal["eim", "adm", "apdm"]
Filtering = Literal["eif", "adf", "apdf"]
Allocation = Literal["preserve", "seq", "random", "block"]
V6 = Literal["off", "open", "eif", "adf", "apdf"]
Kind = Literal["nat", "fw", "public", "none"]

MAPPINGS: Final = ("eim", "adm", "apdm")
FILTERINGS: Final = ("eif", "adf", "apdf")
ALLOCATIONS: Final = ("preserve", "seq", "random", "block")
MAX_CHAIN: Final = 4
MAX_POOL: Final = 16
DEFAULT_HOPS: Final = 4
IDEAL: Final = Shape()


class SpecError(ValueError):
    """A spec has a word that is not one; the message names it and what there is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NatSpec:
    """How one middlebox behaves. Times are seconds.

    kind: nat; fw, a stateful firewall in front of public addresses; public, nothing in the way;
    none, no IPv4 at all. new: lifetime of a mapping until the first answer. maxage: absolute
    lifetime, 0 = unlimited. refresh: whether inbound packets keep a mapping, too. input: whether
    the router itself takes packets that nobody asked for, which then occupy the port towards their
    sender. udp, tcp: remote ports that may be reached, None = all. maximum: mappings an inside
    host may hold, 0 = unlimited. overload: one outer port for several remote endpoints, as Linux.
    block: ports in an inside host's block when allocation is `block`. noise: mappings a second that
    other hosts make, which move a sequence on. pmp: whether it grants
    port mappings, by NAT-PMP, PCP or both. box: MODULE:CLASS of a `Box`
    that behaves in its own way.
    """

    kind: Kind = "nat"
    mapping: MappingKind = "eim"
    filtering: Filtering = "apdf"
    allocation: Allocation = "preserve"
    hairpin: Literal["on", "off", "internal"] = "off"
    timeout: float = 120.0
    new: float = 120.0
    maxage: float = 0.0
    refresh: Literal["both", "out"] = "both"
    unsolicited: Literal["drop", "reject"] = "drop"
    input: Literal["drop", "accept"] = "drop"
    udp: frozenset[int] | None = None
    tcp: frozenset[int] | None = None
    simopen: bool = True
    tcpnew: float = 240.0
    tcpest: float = 7440.0
    tcpfin: float = 240.0
    frag: bool = True
    low: int = 1024
    high: int = 65535
    block: int = 512
    maximum: int = 0
    step: int = 1
    pool: int = 1
    pooling: Literal["paired", "arbitrary"] = "paired"
    overload: bool = False
    noise: float = 0.0
    pmp: Literal["off", "on", "pmp", "pcp"] = "off"
    v6: V6 = "off"
    box: str = ""

    def __post_init__(self) -> None:
        if not 1 <= self.low <= self.high <= 65535:
            raise SpecError(f"ports={self.low}-{self.high} is not a range of ports")
        if min(self.timeout, self.new, self.tcpnew, self.tcpest, self.tcpfin) <= 0:
            raise SpecError("a timeout is more than 0 seconds (maxage=0 is no absolute lifetime)")
        if not 1 <= self.pool <= MAX_POOL:
            raise SpecError(f"pool={self.pool}: 1 to {MAX_POOL} addresses")
        most = self.high - self.low + 1 if self.allocation == "block" else 65536
        if not 1 <= self.block <= most:
            raise SpecError(f"block={self.block} is not within ports={self.low}-{self.high}")
        if not 1 <= self.step <= 1024:
            raise SpecError(f"step={self.step}: 1 to 1024 ports")

    @property
    def translates(self) -> bool:
        """Whether it rewrites addresses."""
        return self.kind == "nat"


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkSpec:
    """A link, both directions alike; hops: routers between it and the middle of the internet."""

    shape: Shape = IDEAL
    hops: int = DEFAULT_HOPS


PRESETS: Final[dict[str, str]] = {
    "fullcone": "eim-eif",
    "restricted": "eim-adf",
    "portrestricted": "eim-apdf",
    "symmetric": "apdm-apdf-random",
    "linux": "apdm-apdf-preserve,overload=1,new=30,timeout=120",
    "cgnblock": "apdm-apdf-block,max=256",
    "udpblock": "eim-apdf,udp=0",
    "tcp443": "eim-apdf,udp=0,tcp=443",
    "v6": "none,v6=apdf",
}


def _seconds(text: str) -> float:
    value = float(text)
    if not 0 <= value < 1e9:
        raise ValueError
    return value


def _count(text: str) -> int:
    value = int(text)
    if not 0 <= value <= 1_000_000:
        raise ValueError
    return value


def _flag(text: str) -> bool:
    return {"0": False, "off": False, "1": True, "on": True}[text]


def _remote_ports(text: str) -> frozenset[int] | None:
    if text in ("0", "off"):
        return frozenset()
    if text in ("1", "on"):
        return None
    ports = frozenset(int(word) for word in text.split("/"))
    if not all(1 < port <= 65535 for port in ports):
        raise ValueError
    return ports


def _word(*words: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text not in words:
            raise ValueError
        return text

    return parse


def _class_name(text: str) -> str:
    module, _, name = text.partition(":")
    if not all(part.isidentifier() for part in (*module.split("."), name)):
        raise ValueError
    return text


# Option → (field, parser, what is allowed).
_Option = tuple[str, Callable[[str], object], str]
NAT_OPTIONS: Final[dict[str, _Option]] = {
    "hairpin": ("hairpin", _word("on", "off", "internal"), "on, off or internal"),
    "timeout": ("timeout", _seconds, "seconds"),
    "new": ("new", _seconds, "seconds"),
    "maxage": ("maxage", _seconds, "seconds"),
    "refresh": ("refresh", _word("both", "out"), "both or out"),
    "unsolicited": ("unsolicited", _word("drop", "reject"), "drop or reject"),
    "input": ("input", _word("drop", "accept"), "drop or accept"),
    "udp": ("udp", _remote_ports, "0, 1, or ports joined by /"),
    "tcp": ("tcp", _remote_ports, "0, 1, or ports joined by /"),
    "simopen": ("simopen", _flag, "0 or 1"),
    "tcpnew": ("tcpnew", _seconds, "seconds"),
    "tcpest": ("tcpest", _seconds, "seconds"),
    "tcpfin": ("tcpfin", _seconds, "seconds"),
    "frag": ("frag", _flag, "0 or 1"),
    "block": ("block", _count, "a number of ports"),
    "max": ("maximum", _count, "a number of mappings"),
    "step": ("step", _count, "a number of ports"),
    "pool": ("pool", _count, "a number of addresses"),
    "pooling": ("pooling", _word("paired", "arbitrary"), "paired or arbitrary"),
    "overload": ("overload", _flag, "0 or 1"),
    "noise": ("noise", _seconds, "mappings a second"),
    "pmp": ("pmp", _word("off", "on", "pmp", "pcp"), "off, on, pmp or pcp"),
    "v6": ("v6", _word("off", "open", *FILTERINGS), "off, open, eif, adf or apdf"),
    "box": ("box", _class_name, "MODULE:CLASS"),
}
LINK_OPTIONS: Final[dict[str, _Option]] = {
    "delay": ("delay", lambda text: _seconds(text) / 1e3, "milliseconds"),
    "jitter": ("jitter", lambda text: _seconds(text) / 1e3, "milliseconds"),
    "loss": ("loss", lambda text: _seconds(text) / 100, "percent"),
    "burst": ("burst", _seconds, "packets lost in a row, on average"),
    "reorder": ("reorder", lambda text: _seconds(text) / 100, "percent"),
    "dup": ("duplicate", lambda text: _seconds(text) / 100, "percent"),
    "rate": ("rate", lambda text: _seconds(text) * 1e6, "Mbit/s"),
    "queue": ("queue", _count, "bytes"),
    "mtu": ("mtu", _count, "bytes"),
    "hops": ("hops", _count, "routers"),
}


def _options(words: list[str], table: Mapping[str, _Option], kind: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for word in words:
        name, equals, text = word.partition("=")
        if name not in table or not equals:
            raise SpecError(f"{kind} has no option {word!r}: there are {', '.join(table)}")
        field, parse, allowed = table[name]
        try:
            found[field] = parse(text)
        except (ValueError, KeyError):
            raise SpecError(f"{word!r}: {name} takes {allowed}") from None
    return found


def parse_nat(text: str) -> tuple[NatSpec, ...]:
    """Parse a NAT or a chain of them, inner first.

    Raises: SpecError.
    """
    parts = text.split("+")
    if len(parts) > MAX_CHAIN:
        raise SpecError(f"{text!r}: at most {MAX_CHAIN} NATs in a row")
    chain = tuple(_box(part.strip()) for part in parts)
    for box in chain[1:]:
        if not box.translates or box.v6 != "off":
            raise SpecError(f"{text!r}: only NATs without v6= stand behind another NAT")
    if len(chain) > 1 and not chain[0].translates:
        raise SpecError(f"{text!r}: a chain begins with a NAT")
    return chain


def _box(text: str) -> NatSpec:
    head, *words = [word.strip() for word in text.split(",")]
    if head in PRESETS:
        preset, *defaults = PRESETS[head].split(",")
        head, words = preset, [*defaults, *words]
    fields = _head(head)
    given: list[str] = []
    for word in words:
        if word.startswith("ports="):
            fields |= _range(word)
        else:
            given.append(word)
    fields |= _options(given, NAT_OPTIONS, "a NAT")
    if "timeout" in fields and "new" not in fields:
        fields["new"] = fields["timeout"]
    return NatSpec(**fields)


def _range(word: str) -> dict[str, Any]:
    low, _, high = word.removeprefix("ports=").partition("-")
    if not low.isdecimal() or not high.isdecimal():
        raise SpecError(f"{word!r}: ports takes LOW-HIGH")
    return {"low": int(low), "high": int(high)}


def _head(head: str) -> dict[str, Any]:
    if head in ("public", "none"):
        return {"kind": head, "v6": "open" if head == "public" else "off"}
    first, *rest = head.split("-")
    if first == "fw":
        fields: dict[str, Any] = {"kind": "fw"}
        if rest and rest[0] in FILTERINGS:
            fields["filtering"] = rest.pop(0)
    elif first in MAPPINGS:
        fields = {"mapping": first, "allocation": "preserve" if first == "eim" else "random"}
        for name, words in (("filtering", FILTERINGS), ("allocation", ALLOCATIONS)):
            if rest and rest[0] in words:
                fields[name] = rest.pop(0)
    else:
        rest = [head]
        fields = {}
    if rest:
        raise SpecError(
            f"{head!r} is not a NAT: MAPPING[-FILTERING[-PORTS]] of {'|'.join(MAPPINGS)}, "
            f"{'|'.join(FILTERINGS)}, {'|'.join(ALLOCATIONS)}, or fw[-FILTERING], public, none, "
            f"or a preset: {', '.join(PRESETS)}"
        )
    return fields


def print_nat(chain: tuple[NatSpec, ...]) -> str:
    """Return the text that parses to `chain`."""
    return "+".join(_print_box(box) for box in chain)


def _print_box(box: NatSpec) -> str:
    if box.kind == "nat":
        head = f"{box.mapping}-{box.filtering}-{box.allocation}"
    else:
        head = f"fw-{box.filtering}" if box.kind == "fw" else box.kind
    words = [head]
    default = _box(head)
    if (box.low, box.high) != (default.low, default.high):
        words.append(f"ports={box.low}-{box.high}")
    for name, (field, _, _) in NAT_OPTIONS.items():
        value = getattr(box, field)
        implied = box.timeout if name == "new" else getattr(default, field)
        if value != implied:
            words.append(f"{name}={_text(value)}")
    return ",".join(words)


def _text(value: object) -> str:
    if isinstance(value, bool):
        return str(int(value))
    if isinstance(value, float):
        return repr(value).removesuffix(".0")
    if isinstance(value, frozenset):
        return "/".join(str(port) for port in sorted(value)) or "0"
    return "1" if value is None else str(value)


def parse_link(text: str) -> LinkSpec:
    """Parse a link.

    Raises: SpecError.
    """
    words = [word.strip() for word in text.split(",") if word.strip()]
    fields = _options(words, LINK_OPTIONS, "a link")
    hops = fields.pop("hops", DEFAULT_HOPS)
    try:
        shape = Shape(**fields)
    except ValueError as error:
        raise SpecError(f"{text!r}: {error}") from None
    if not 0 <= hops <= 60:
        raise SpecError(f"hops={hops}: 0 to 60 routers")
    return LinkSpec(shape=shape, hops=hops)
