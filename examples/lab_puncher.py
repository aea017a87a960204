"""A hole puncher in 30 lines, for `pt lab pair A B --puncher "python examples/lab_puncher.py"`.

Both sides send to the address under which a server saw the other one, and to whatever address a
packet of the other one came from; a packet that answers ours proves the path in both directions.
"""

import json
import os
import select
import socket
import sys
import time

budget, sent = float(os.environ["PT_LAB_BUDGET"]), 0
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
ip, port = os.environ["PT_LAB_REFLECTOR"].split()[0].split(":")
sock.sendto(b"where am I?", (ip, int(port)))
print(json.dumps({"event": "signal", "data": sock.recv(100).decode()}), flush=True)
ip, port = json.loads(sys.stdin.readline())["data"].split(":")
peers, proved, began, due = {(ip, int(port))}, False, time.monotonic(), 0.0
while not proved and time.monotonic() < began + budget:
    if time.monotonic() >= due:
        for peer in peers:
            sock.sendto(b"ping", peer)
            sent += 1
        due = time.monotonic() + 0.02
    if select.select([sock], [], [], max(0.0, due - time.monotonic()))[0]:
        data, peer = sock.recvfrom(100)
        peers.add(peer)
        proved = data == b"pong"
        sock.sendto(b"pong", peer)
outcome = {"event": "outcome", "direct": proved, "seconds": time.monotonic() - began}
print(json.dumps({**outcome, "winner": "simultaneous", "packets": sent}), flush=True)
