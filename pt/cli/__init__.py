"""The command `pt`: one module a command, plus argument parsing, rendering and process manners.

`main` knows only names and help texts; a command's module, and with it asyncio and cryptography,
is imported when that command runs.
"""
