"""A line of the table: one kind of work, measured beside a yardstick in the same run."""

from __future__ import annotations

import os
import platform
import statistics
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import TypedDict

from msgspec import Struct, field


class Rounds(Struct, frozen=True):
    """The same thing measured several times."""

    values: Sequence[float]

    @property
    def median(self) -> float:
        """What counts of them."""
        return statistics.median(self.values)

    @property
    def spread(self) -> float | None:
        """(Largest - smallest) / median; of one round nothing is known."""
        if len(self.values) < 2 or not self.median:
            return None
        return (max(self.values) - min(self.values)) / self.median


class Machine(Struct, frozen=True):
    """Where a line was measured."""

    cores: int
    processor: str
    memory_gb: float
    system: str
    python: str
    postgres: str


class Line(Struct, frozen=True, kw_only=True):
    """What was measured: `ours` beside `yardstick`, both in `unit`, and whether that meets the target."""

    id: str
    work: str
    ours: float | None
    unit: str
    yardstick: float | None = None
    ratio: float | None = None
    target: str
    met: bool
    spread: float | None = None
    """Of `ours` over its rounds, as a share of their median."""
    yardstick_spread: float | None = None
    notes: list[str] = field(default_factory=list)
    """What else is known: percentiles, parts of the figure, a second target."""
    seconds: float = 0.0
    at: datetime | None = None
    """When it was measured."""
    machine: Machine | None = None


class Compared(TypedDict):
    """The fields of a line that come from two rounds of measurements."""

    ours: float
    spread: float | None
    yardstick: float
    yardstick_spread: float | None
    ratio: float


def compared(ours: Rounds, yardstick: Rounds) -> Compared:
    """The fields of a line that come from two rounds of measurements."""
    return {
        "ours": ours.median, "spread": ours.spread,
        "yardstick": yardstick.median, "yardstick_spread": yardstick.spread,
        "ratio": ours.median / yardstick.median,
    }  # fmt: skip


def machine(postgres: str) -> Machine:
    """This one; `postgres` is the version that its server names."""
    return Machine(
        cores=os.cpu_count() or 1,
        processor=_processor(),
        memory_gb=round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
        system=platform.system(),
        python=platform.python_version(),
        postgres=postgres,
    )


def _processor() -> str:
    known = Path("/proc/cpuinfo")
    lines = known.read_text().splitlines() if known.exists() else []
    names = [line.partition(": ")[2] for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
