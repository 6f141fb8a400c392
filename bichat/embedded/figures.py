"""The figures of the sales database: three years of a wholesaler of coffee, the same every time."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence
from datetime import date, timedelta
from typing import Any, NamedTuple

YEARS, ORDERS = 3, 4200
_SEED = 20

_SEASON = (0.9, 0.85, 0.95, 1.0, 1.0, 0.9, 0.75, 0.8, 1.05, 1.15, 1.3, 1.35)
_SEGMENTS = {"cafe": "Café", "office": "Office", "hotel": "Hotel", "retail": "Foods"}
_NAMES = (
    "Albatros", "Blume", "Corvo", "Delta", "Edel", "Fjord", "Globus", "Hansa", "Iris", "Jasmin", "Kranich",
    "Linde", "Merkur", "Nova", "Orion", "Perle", "Quartz", "Rubin", "Silber", "Tulpe", "Ulme", "Venus",
)  # fmt: skip


class _Region(NamedTuple):
    name: str
    manager: str
    customers: int
    growth: float
    """A year."""
    cities: tuple[str, ...]


class _Product(NamedTuple):
    name: str
    category: str
    price: float
    cost: float
    wanted: int
    """How often, beside others."""


class _Customer(NamedTuple):
    id: int
    name: str
    region: int
    city: str
    segment: str
    since: date


_REGIONS = (
    _Region("North", "Ines Halvorsen", 22, 1.05, ("Hamburg", "Oslo", "Malmö", "Aarhus")),
    _Region("South", "Marco Bellini", 18, 1.30, ("Milan", "Turin", "Lyon", "Barcelona")),
    _Region("West", "Claire Dumont", 30, 1.10, ("Brussels", "Rotterdam", "Paris", "Lille")),
    _Region("East", "Tomasz Nowak", 14, 1.45, ("Warsaw", "Kraków", "Prague", "Vilnius")),
    _Region("Central", "Greta Lindner", 26, 0.95, ("Frankfurt", "Vienna", "Zürich", "Nuremberg")),
)
_PRODUCTS = (
    _Product("House Blend 1 kg", "beans", 18.90, 9.80, 30),
    _Product("Espresso Forte 1 kg", "beans", 21.50, 11.20, 24),
    _Product("Decaf 1 kg", "beans", 22.90, 12.60, 7),
    _Product("Ethiopia Sidamo 1 kg", "beans", 29.00, 16.40, 9),
    _Product("Colombia Huila 1 kg", "beans", 27.50, 15.10, 8),
    _Product("Organic Crema 1 kg", "beans", 26.40, 14.00, 12),
    _Product("Office Blend 5 kg", "beans", 82.00, 45.50, 10),
    _Product("Barista Pro", "machines", 2490.00, 1720.00, 1),
    _Product("Office One", "machines", 890.00, 610.00, 2),
    _Product("Office Two", "machines", 1390.00, 965.00, 1),
    _Product("Grinder M60", "machines", 420.00, 265.00, 2),
    _Product("Water Filter Set", "machines", 119.00, 58.00, 5),
    _Product("Cups, set of 12", "accessories", 64.00, 31.00, 6),
    _Product("Milk Jug", "accessories", 24.50, 11.00, 5),
    _Product("Tamper", "accessories", 39.00, 15.50, 3),
    _Product("Cleaning Kit", "accessories", 32.00, 13.80, 9),
    _Product("Vanilla Syrup", "accessories", 9.90, 4.60, 8),
    _Product("Oat Milk, case of 6", "accessories", 14.40, 9.30, 14),
    _Product("Maintenance, yearly", "service", 349.00, 180.00, 3),
    _Product("Barista Training", "service", 590.00, 320.00, 1),
)

Rows = Sequence[tuple[Any, ...]]


def generated(today: date) -> dict[str, Rows]:
    """Rows by table; they depend on nothing but the day before which they end."""
    rand = random.Random(_SEED)  # noqa: S311 - figures, not secrets
    customers = list(_customers(rand, today))
    orders, items = list[tuple[Any, ...]](), list[tuple[Any, ...]]()
    for number, (day, customer) in enumerate(_ordered(rand, customers, today), 1):
        age = (today - day).days
        status = "open" if age < 7 else rand.choices(("delivered", "returned", "cancelled"), (94, 2, 4))[0]
        orders.append(
            (number, customer.id, day, rand.choices(("web", "phone", "visit"), (6, 3, 1))[0], status)
        )
        items.extend(_items(rand, number, customer.segment, age / 365))
    return {
        "regions": [(n, region.name, region.manager) for n, region in enumerate(_REGIONS, 1)],
        "customers": customers,
        "products": [(n, p.name, p.category, p.price, p.cost) for n, p in enumerate(_PRODUCTS, 1)],
        "orders": orders,
        "order_items": items,
    }


def _customers(rand: random.Random, today: date) -> Iterator[_Customer]:
    number = 0
    for region, about in enumerate(_REGIONS, 1):
        for _ in range(about.customers):
            number += 1
            segment, city = rand.choices(tuple(_SEGMENTS), (5, 3, 2, 2))[0], rand.choice(about.cities)
            since = today - timedelta(days=rand.randrange(60, 365 * 2 * YEARS))
            name = f"{_SEGMENTS[segment]} {rand.choice(_NAMES)} {city}"
            yield _Customer(number, name, region, city, segment, since)


def _ordered(
    rand: random.Random, customers: Sequence[_Customer], today: date
) -> Iterator[tuple[date, _Customer]]:
    """Who orders when: with the season, as their region grows, and not before they are customers."""
    days = [today - timedelta(days=back) for back in range(365 * YEARS, 0, -1)]
    seasons = [_SEASON[day.month - 1] * (0.2 if day.weekday() > 4 else 1) for day in days]
    sizes = [min(rand.paretovariate(1.6), 8) for _ in customers]
    for day in sorted(rand.choices(days, seasons, k=ORDERS)):
        year = (today - day).days // 365
        wants = [
            size / _REGIONS[customer.region - 1].growth ** year
            for size, customer in zip(sizes, customers, strict=True)
        ]
        customer = rand.choices(customers, wants)[0]
        if customer.since <= day:
            yield day, customer


def _items(rand: random.Random, order: int, segment: str, years: float) -> Iterable[tuple[Any, ...]]:
    wanted = [product.wanted for product in _PRODUCTS]
    chosen = dict.fromkeys(rand.choices(range(len(_PRODUCTS)), wanted, k=rand.choice((1, 1, 2, 2, 3, 4, 5))))
    for position, n in enumerate(chosen, 1):
        product = _PRODUCTS[n]
        much = product.category in ("beans", "accessories")
        quantity = rand.randrange(2, 24 if segment in ("hotel", "retail") else 12) if much else 1
        price = round(product.price / 1.04**years, 2)  # prices rose
        discount = rand.choices((0, 0.05, 0.1, 0.15), (70, 15, 10, 5))[0]
        yield order, position, n + 1, quantity, price, discount
