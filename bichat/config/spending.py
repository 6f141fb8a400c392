"""Settings that say how much: how many requests or tokens in a time, and what tokens may cost."""

from __future__ import annotations

import re
from collections.abc import Callable
from decimal import Decimal

from msgspec import Struct

from bichat.errors.unusable import WrongSetting

MILLION = 1_000_000
"""Tokens for which a price is given."""
_WHOLE = re.compile(r"([1-9]\d{0,11})/([a-z]+)", re.ASCII)
_MONEY = r"(\d{1,9}(?:\.\d{1,9})?)"
_BUDGET = re.compile(rf"{_MONEY}/([a-z]+)", re.ASCII)
_PRICE = re.compile(rf"(.+?)\s*=\s*{_MONEY}/{_MONEY}", re.ASCII)


class Rate(Struct, frozen=True):
    """So many in each `per`: second, minute or hour."""

    amount: int
    per: str

    def __str__(self) -> str:
        return f"{self.amount}/{self.per}"


class Budget(Struct, frozen=True):
    """So much money in each `per`, a day or a month of the calendar, in UTC."""

    amount: Decimal
    per: str

    def __str__(self) -> str:
        return f"{self.amount:f}/{self.per}"


class Price(Struct, frozen=True):
    """Of a million tokens."""

    prompt: Decimal
    completion: Decimal


class Prices(Struct, frozen=True):
    """What models cost, by their names; "*" stands for all that are not named."""

    by_model: dict[str, Price]

    def cost(self, model: str, prompt_tokens: int, completion_tokens: int) -> Decimal | None:
        """Of these tokens, exactly; None when the model has no price."""
        price = self.by_model.get(model) or self.by_model.get("*")
        if price is None:
            return None
        return (prompt_tokens * price.prompt + completion_tokens * price.completion) / MILLION

    def __str__(self) -> str:
        return ", ".join(f"{name}={p.prompt:f}/{p.completion:f}" for name, p in self.by_model.items())


def rate(*periods: str) -> Callable[[str, str], Rate]:
    """A reader of rates in one of `periods`."""

    def read(name: str, text: str) -> Rate:
        found = _WHOLE.fullmatch(text)
        if not found or found[2] not in periods:
            raise WrongSetting(name=name, reason=f"must be as in 600/minute, in {' or '.join(periods)}")
        return Rate(int(found[1]), found[2])

    return read


def budget(name: str, text: str) -> Budget:
    """Money for a day or a month."""
    found = _BUDGET.fullmatch(text)
    if not found or found[2] not in ("day", "month"):
        raise WrongSetting(name=name, reason="must be as in 50/month or 2.50/day")
    return Budget(Decimal(found[1]), found[2])


def prices(name: str, text: str) -> Prices:
    """Prices of models, separated by commas."""
    by_model: dict[str, Price] = {}
    for part in filter(None, map(str.strip, text.split(","))):
        found = _PRICE.fullmatch(part)
        if not found:
            raise WrongSetting(name=name, reason="must be as in gpt-4.1-mini=0.40/1.60, *=1/3")
        if found[1] in by_model:
            raise WrongSetting(name=name, reason=f"has two prices for {found[1]}")
        by_model[found[1]] = Price(Decimal(found[2]), Decimal(found[3]))
    if not by_model:
        raise WrongSetting(name=name, reason="has no price")
    return Prices(by_model)
