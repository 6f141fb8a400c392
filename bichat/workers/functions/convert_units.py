"""Measured values in other units."""

from __future__ import annotations

import asyncio
import math
import re
from functools import cache
from typing import TYPE_CHECKING, Annotated

from msgspec import Meta, Struct

from bichat.errors.functions import BadArguments
from bichat.workers.function import Context, function

if TYPE_CHECKING:
    from pint import UnitRegistry

_TERM = r"(?:%|°?[^\W\d_]\w*)(?:\s*(?:\^|\*\*)\s*-?[1-9])?"
_UNIT = re.compile(rf"(?:1\s*/\s*)?{_TERM}(?:\s*[*/·]\s*{_TERM}|\s+{_TERM})*")
"""Names, multiplied and divided, with exponents of one digit. pint would work out any arithmetic first, and
be busy with 9**9**9 until the worker is killed."""

Unit = Annotated[
    str,
    Meta(max_length=60, description="A unit such as km, mile, kg/m^3, degC, kWh, US gallon as gallon."),
]


class Conversion(Struct, frozen=True, forbid_unknown_fields=True):
    """A value, its unit, and the one that it is wanted in."""

    value: float
    from_unit: Unit
    to_unit: Unit


class Converted(Struct, frozen=True):
    """The same in the other unit."""

    value: float
    unit: str


@function()
async def convert_units(context: Context, asked: Conversion) -> Converted:
    """Converts a measured value from one physical unit to another. Knows no currencies."""
    for unit in (asked.from_unit, asked.to_unit):
        if not _UNIT.fullmatch(unit.strip()):
            raise BadArguments(reason=f"{unit!r} is not a unit")
    return await asyncio.to_thread(_converted, asked)  # the first time, thousands of units are read


def _converted(asked: Conversion) -> Converted:
    from pint.errors import PintError  # noqa: PLC0415 - with its units it takes half a second

    units = _units()
    try:
        value = units.Quantity(asked.value, asked.from_unit).to(asked.to_unit).magnitude
    except (PintError, ArithmeticError, ValueError, TypeError, AttributeError) as error:
        raise BadArguments(reason=str(error)) from None
    if not math.isfinite(value):
        raise BadArguments(reason="the result is not a number")
    return Converted(value, asked.to_unit)


@cache
def _units() -> UnitRegistry[float]:
    """Those that pint knows."""
    from pint import UnitRegistry  # noqa: PLC0415

    return UnitRegistry(autoconvert_offset_to_baseunit=True)
