"""The tunnel protocol without I/O: messages, authentication, replay."""
