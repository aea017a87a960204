"""What the planner's choices mean, in sentences for people; `{hard}` is "your side's NAT" or so."""

from __future__ import annotations

from typing import Final

__all__ = ["CURES", "WHY", "whose"]

WHY: Final = {
    "open": "{open} lets in whoever writes to it: one packet from the other side is enough.",
    "easy": "Both sides keep one external port for all destinations, so that packets sent at the"
    " same time open both.",
    "firewalls": "Neither side is translated, so that packets sent at the same time open both"
    " firewalls.",
    "reflexive": "{hard} takes a new port for each destination, but {easy} looks at the address"
    " only: the new port is learned from the first packet.",
    "both-open": "Both sides take a new port for each destination, but let in enough of what nobody"
    " asked for: the new ports are learned from the first packets.",
    "wait": "{hard} takes a new port for each destination, but lets in anybody at the port that"
    " servers see: it must be written to before it writes.",
    "predict": "{hard} takes a new port for each destination, and the next ones follow from the"
    " last one.",
    "lockstep": "Both sides take a new port for each destination, and the next ones follow from the"
    " last: each packet is aimed at one of the other side.",
    "block": "{hard} takes random ports from a narrow block: a few sockets there and guesses in the"
    " block here soon meet.",
    "birthday": "{hard} takes a random port for each destination: many sockets there and random"
    " guesses here meet, as birthdays do.",
    "one-sided": "Both sides take random ports, but {hard} does not look at the port of who writes:"
    " many sockets there and random guesses here meet.",
    "fixed": "{hard} takes a random port for each destination, but {easy} keeps one that can be"
    " foretold: many sockets there and random guesses here meet.",
    "scan": "Both sides take random ports, one for each address: every port is tried, since both"
    " users ask for it.",
    "tcp": "Connections that both sides open at the same time become one.",
    "unknown": "It is not known what the NATs do: what works without knowing is tried.",
    "unknown-birthday": "If {hard} takes a random port for each destination, many sockets there and"
    " random guesses here meet.",
    "ipv6": "Both sides have IPv6 without translation: packets sent at the same time open both"
    " firewalls.",
    "lan": "Both sides are on one network, or behind one router.",
    "hairpin": "Both sides are behind one NAT, which may return what is sent to its outer address.",
    "no-hairpin": "Both sides are behind one NAT, which does not return what is sent to its outer"
    " address; only addresses inside can work.",
    "random": "Both NATs take a random port for each destination and let in only whom they wrote"
    " to: no port can be guessed.",
    "moving": "Both NATs take a new port for each destination and let in only whom they wrote to,"
    " and the ports of {hard} are random: they cannot be guessed while those of the other move.",
    "scan-refused": "Both NATs take random ports and let in only whom they wrote to; only a scan of"
    " all ports could work, which was not asked for.",
    "udp-blocked": "{hard} lets no UDP out.",
    "tcp-hard": "TCP needs a NAT that keeps its port on both sides, or one that lets in others.",
    "simopen": "neither NAT lets in a SYN that meets its own.",
    "no-candidates": "{hard} has not said where it can be reached.",
}
CURES: Final = {
    "map": "A port mapping on either router (UPnP, NAT-PMP, PCP, or one port forwarded by hand), or"
    " IPv6 on both sides, makes a direct path possible.",
    "scan": "A port mapping on either router, IPv6 on both sides, or a full scan on both sides"
    " makes a direct path possible.",
    "udp": "Let UDP out, or forward one TCP port on either side.",
    "hairpin": "Use the other side's address inside the network, or switch on NAT loopback"
    " (hairpinning) in the router.",
    "quicker": "A port mapping on the router with the random ports (UPnP, NAT-PMP, PCP) makes this"
    " quick.",
}


def whose(ours: bool) -> str:
    """The name of a side's NAT, as it is used in the sentences."""
    return "this side's NAT" if ours else "the other side's NAT"
