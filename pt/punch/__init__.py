"""Hole punching between two `pt`s, without I/O: facts and candidates in, a plan, packets out.

The asyncio shell is `pt.punch.aio`; the guide is docs/punching.md.
"""

from __future__ import annotations

from pt.punch.candidates import Budget, Candidate, Kind, Side
from pt.punch.planner import make_plan
from pt.punch.strategies import Job, Plan, Step, Strategy

__all__ = ["Budget", "Candidate", "Job", "Kind", "Plan", "Side", "Step", "Strategy", "make_plan"]
