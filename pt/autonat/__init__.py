"""AutoNAT v2: whether an address of ours can be dialed. The asyncio shell is `pt.autonat.aio`."""
