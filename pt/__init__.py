"""`pt` (PeerTunnel): serverless TCP port forwarding, wire-compatible with libp2p."""
