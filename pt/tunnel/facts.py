"""Plain values with named fields, made cheaply: the base of events and configuration."""

from __future__ import annotations

from typing import ClassVar, dataclass_transform

__all__ = ["Facts"]


@dataclass_transform(frozen_default=True, kw_only_default=True)
class Facts:
    """A value with named fields: frozen, keyword-only, compared by content.

    What `dataclass` gives, but that writes and compiles code for each class at import: for the
    events and the configuration a tenth of the time in which `pt bind` has to listen.
    """

    fields: ClassVar[tuple[str, ...]] = ()
    """In the order of their declaration."""
    hidden: ClassVar[frozenset[str]] = frozenset()
    """Those that `repr` leaves out: it ends in logs and tracebacks."""

    def __init_subclass__(cls) -> None:
        cls.fields += tuple(cls.__annotations__)

    def __init__(self, **facts: object) -> None:
        own = self.__dict__
        own.update(facts)
        cls = type(self)
        if len(own) != len(cls.fields) or not facts.keys() <= set(cls.fields):
            for name in facts.keys() - set(cls.fields):
                raise TypeError(f"{cls.__name__} has no field {name!r}")
            for name in cls.fields:
                if name not in own and not hasattr(cls, name):
                    raise TypeError(f"{cls.__name__} needs {name!r}")

        self._check()

    def _check(self) -> None:
        """Refuse values that make no sense, or complete them, in subclasses."""

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"{type(self).__name__} is frozen")

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        return all(getattr(self, name) == getattr(other, name) for name in self.fields)

    def __hash__(self) -> int:
        return hash(tuple(getattr(self, name) for name in self.fields))

    def __repr__(self) -> str:
        shown = [name for name in self.fields if name not in self.hidden]
        inner = ", ".join(f"{name}={getattr(self, name)!r}" for name in shown)
        return f"{type(self).__name__}({inner})"
