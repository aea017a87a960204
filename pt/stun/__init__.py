"""STUN (RFC 8489) and what it tells of the NAT in front of us (RFC 5780).

Pure machines; `pt.stun.aio` moves the bytes. Nothing here owns a socket: a port is a way to send
datagrams and a place where those that came are handed over, so that one socket serves STUN, QUIC
and the overlay at once.
"""
