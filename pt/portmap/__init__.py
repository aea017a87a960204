"""Port mappings: a gateway is asked to let a port of ours be reached from outside.

Three services, all of the default gateway alone: PCP (RFC 6887), NAT-PMP (RFC 6886), UPnP-IGD.
"""
