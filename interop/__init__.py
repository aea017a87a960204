"""Interoperability with go-libp2p, rust-libp2p and js-libp2p: peers of our own and a runner."""
