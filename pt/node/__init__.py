"""One running peer: listeners, dialing, upgrade, the connection table and the data path."""
