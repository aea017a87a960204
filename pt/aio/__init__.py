"""The asyncio base: byte streams, sockets and task scopes that the shells are built on."""
