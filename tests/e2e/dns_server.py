"""A little DNS server for the laboratory: `python -m tests.e2e.dns_server IP ZONE`.

ZONE is JSON: name to a list of addresses, of TXT strings for names that begin with `_`. Other names
do not exist. It says `{"event": "serving"}` when it does, and serves until stdin ends.
"""

from __future__ import annotations

import asyncio
import json
import sys

import dns.message
import dns.rcode
import dns.rdatatype
import dns.rrset


class Server(asyncio.DatagramProtocol):
    def __init__(self, zone: dict[str, list[str]]) -> None:
        self.zone = zone

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def datagram_received(self, data: bytes, source: tuple[str, int]) -> None:
        question = dns.message.from_wire(data)
        asked = question.question[0]
        reply = dns.message.make_response(question, recursion_available=True)
        entries = self.zone.get(asked.name.to_text(omit_final_dot=True).lower())
        if entries is None:
            reply.set_rcode(dns.rcode.NXDOMAIN)
        else:
            texts = [each for each in entries if kind(each) == asked.rdtype]
            if texts:
                rdtype = dns.rdatatype.to_text(asked.rdtype)
                reply.answer.append(dns.rrset.from_text_list(asked.name, 60, "IN", rdtype, texts))
        self.transport.sendto(reply.to_wire(), source)  # type: ignore[attr-defined]


def kind(entry: str) -> dns.rdatatype.RdataType:
    if entry.startswith('"'):
        return dns.rdatatype.TXT
    return dns.rdatatype.AAAA if ":" in entry else dns.rdatatype.A


async def main() -> None:
    ip, zone = sys.argv[1:]
    loop = asyncio.get_running_loop()
    await loop.create_datagram_endpoint(lambda: Server(json.loads(zone)), local_addr=(ip, 53))
    print(json.dumps({"event": "serving"}), flush=True)
    await loop.run_in_executor(None, sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(main())
