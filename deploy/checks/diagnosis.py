"""What one check found: how it is, and what mends it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

MARKS = {"ok": "ok     ", "warning": "WARNING", "fault": "FAULT  "}


@dataclass(frozen=True)
class Diagnosis:
    """One check.

    Attributes:
        name: what was looked at.
        state: fault: something will not work; warning: it works, slower or not in every case.
        found: in words, with its figures.
        fix: what to do about it; empty if nothing is to be done.
    """

    name: str
    state: Literal["ok", "warning", "fault"]
    found: str
    fix: str = ""

    def __str__(self) -> str:
        """In one line."""
        return f"{self.name}: {self.found}" + (f"; {self.fix}" if self.fix else "")

    def lines(self) -> str:
        """For people: how it is, and below it what mends it."""
        return f"{MARKS[self.state]} {self.name}: {self.found}" + (
            f"\n        fix: {self.fix}" if self.fix else ""
        )

    def to_json(self) -> dict[str, Any]:
        """For programs."""
        return {"name": self.name, "state": self.state, "found": self.found, "fix": self.fix or None}


def well(name: str, found: str) -> Diagnosis:
    """Nothing is to be done."""
    return Diagnosis(name, "ok", found)


def fault(name: str, found: str, fix: str) -> Diagnosis:
    """Something will not work."""
    return Diagnosis(name, "fault", found, fix)


def warning(name: str, found: str, fix: str) -> Diagnosis:
    """Something is slower than it could be, or fails in some cases."""
    return Diagnosis(name, "warning", found, fix)
