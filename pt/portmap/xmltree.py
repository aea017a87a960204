"""XML of a gateway, which may be hostile: small, shallow, without document type or entities."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final
from xml.parsers import expat

from pt.portmap.mapping import PortmapError

__all__ = ["MAX_BYTES", "MAX_DEPTH", "MAX_ELEMENTS", "MAX_TEXT", "Element", "escape", "parse"]

MAX_BYTES: Final = 128 * 1024
MAX_DEPTH: Final = 24
MAX_ELEMENTS: Final = 4096
MAX_TEXT: Final = 4096
"""Characters of one element."""
_ESCAPES: Final = {"&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;"}


@dataclass(slots=True)
class Element:
    """An element by its local name: prefixes are dropped, since gateways forget to declare them."""

    name: str
    text: str = ""
    children: list[Element] = field(default_factory=list)

    def find(self, name: str) -> Element | None:
        """The first child of that name."""
        return next((each for each in self.children if each.name == name), None)

    def value(self, name: str) -> str:
        """The first child's text, without blanks around it; empty if there is none."""
        found = self.find(name)
        return "" if found is None else found.text.strip()

    def all(self, name: str) -> Iterator[Element]:
        """Every element of that name below this one, in the document's order."""
        for child in self.children:
            if child.name == name:
                yield child
            yield from child.all(name)


def escape(text: str) -> str:
    """Text as it may stand in an element."""
    return "".join(_ESCAPES.get(char, char) for char in text)


class _Builder:
    def __init__(self) -> None:
        self.root: Element | None = None
        self._open: list[Element] = []
        self._count = 0

    def start(self, name: str, attributes: object) -> None:
        del attributes
        self._count += 1
        if self._count > MAX_ELEMENTS:
            raise PortmapError(f"XML of more than {MAX_ELEMENTS} elements")
        if len(self._open) >= MAX_DEPTH:
            raise PortmapError(f"XML deeper than {MAX_DEPTH} elements")
        element = Element(name.rpartition(":")[2])
        if self._open:
            self._open[-1].children.append(element)
        else:
            self.root = element
        self._open.append(element)

    def end(self, name: str) -> None:
        del name
        self._open.pop()

    def text(self, data: str) -> None:
        element = self._open[-1]
        if len(element.text) + len(data) > MAX_TEXT:
            raise PortmapError(f"XML with more than {MAX_TEXT} characters in an element")
        element.text += data

    @staticmethod
    def refuse(*_: object) -> int:
        raise PortmapError("XML with a document type or entities of its own")


def parse(data: bytes) -> Element:
    """Parse a document.

    Raises:
        PortmapError: it is not well-formed, or what no gateway needs.

    """
    if len(data) > MAX_BYTES:
        raise PortmapError(f"XML of more than {MAX_BYTES} bytes")
    builder = _Builder()
    parser = expat.ParserCreate()
    parser.buffer_text = True
    parser.StartElementHandler = builder.start
    parser.EndElementHandler = builder.end
    parser.CharacterDataHandler = builder.text
    parser.StartDoctypeDeclHandler = builder.refuse
    parser.EntityDeclHandler = builder.refuse
    parser.ExternalEntityRefHandler = builder.refuse
    try:
        parser.Parse(data, True)
    except (expat.ExpatError, ValueError, LookupError) as error:
        raise PortmapError(f"XML that is not well-formed: {error}") from error
    if builder.root is None:
        raise PortmapError("XML without an element")
    return builder.root
