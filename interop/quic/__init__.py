"""The test cases of the quic-interop-runner that apply to QUIC as libp2p speaks it.

Three hosts: a client, a server, and between them the path (`interop.quic.path`), which loses,
delays, damages or redirects datagrams as a case asks, and keeps count of what it saw.  The
endpoints speak the ALPN `libp2p` with client certificates and answer one contract:

    serve --ip A [--retry] [--chacha]
        one JSON line with its "multiaddr"; at SIGTERM one with "cipher", "key_updates", "moves"
    fetch --to MULTIADDR --sizes N,… [--connections N] [--at-once N] [--key-update] [--chacha]
        one JSON line with "ok", "detail", "cipher" and "key_updates"

A fetch opens a stream a size, sends the size as eight bytes, and FIN; the answer is as many bytes
and their SHA-256, and FIN.  Ours is `interop.quic.ours`; the others are aioquic's own asyncio
endpoint (`interop.quic.stock`) and quic-go itself (`interop/peers/go/quic.go`).
"""
