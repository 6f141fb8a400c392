"""What is installed: every package by name, in the one version that was tested."""

from __future__ import annotations

from importlib.metadata import requires
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

CONSTRAINTS = Path(__file__).parent.parent / "constraints.txt"


def pinned() -> dict[str, Requirement]:
    lines = (line.partition("#")[0].strip() for line in CONSTRAINTS.read_text().splitlines())
    return {canonicalize_name(pin.name): pin for pin in map(Requirement, filter(None, lines))}


def installed(name: str, extras: frozenset[str], seen: set[tuple[str, frozenset[str]]]) -> set[str]:
    """The names of what `name` with `extras` brings along on this Python."""
    if (name, extras) in seen:
        return set()
    seen.add((name, extras))
    found = {name}
    for requirement in map(Requirement, requires(name) or []):
        marker = requirement.marker
        if marker is None or any(marker.evaluate({"extra": extra}) for extra in extras | {""}):
            found |= installed(canonicalize_name(requirement.name), frozenset(requirement.extras), seen)
    return found


def test_every_package_that_is_installed_is_pinned() -> None:
    names = installed("bichat", frozenset({"embedded", "dev"}), set()) - {"bichat"}
    assert names - set(pinned()) == set()


def test_pins_are_exact_versions_without_addresses() -> None:
    for pin in pinned().values():
        assert pin.url is None
        assert [clause.operator for clause in pin.specifier] == ["=="]
