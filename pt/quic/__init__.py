"""QUIC v1 as libp2p speaks it, without I/O.  Source: libp2p specs `quic/README.md`."""
