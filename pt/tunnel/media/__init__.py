"""The media of a rendezvous: where the records of a name are published and looked for."""
