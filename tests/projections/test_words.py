"""Words as they are kept for the search, beside a plainer way to find them."""

from __future__ import annotations

import re
import unicodedata

from hypothesis import example, given
from hypothesis import strategies as st

from bichat.projections.words import LONGEST, MOST, kept, words

TEXT = st.text(
    st.one_of(
        st.characters(codec="utf-8"),
        st.sampled_from(" \t\n.,-_'\\:\x00"),
        st.sampled_from("aAzZ09äÄßéœﬁ½№\xb4\u0301\u0130\u0131κςЙё東京한글ไทยत्"),
    ),
    max_size=200,
)


def plainly(text: str) -> list[str]:
    plain = text
    for _ in range(2):
        plain = unicodedata.normalize("NFKD", plain.casefold())
    found = re.findall(r"\w+", "".join(c for c in plain if not unicodedata.combining(c)))
    return list(dict.fromkeys(word[:LONGEST] for word in found))


@given(TEXT)
@example("e\u0301te\u0301 Fu\u0308ße")
@example("x" * (LONGEST + 1) + " " + "y" * LONGEST)
@example("№ 5℃ 3 MΩ № \U0001d6a8\u0391\u03b1")
def test_the_quick_way_to_words_finds_those_of_the_plain_one(text: str) -> None:
    assert words(text) == plainly(text)


@given(TEXT, st.integers(1, 90), st.integers(0, 45))
def test_no_more_and_no_longer_words_are_kept_than_the_search_knows(text: str, times: int, gap: int) -> None:
    long = (text + " " * gap + "w" * times) * 3
    assert sorted(kept(long).split()) == sorted(plainly(long))


def test_of_too_many_words_the_first_ones_are_kept() -> None:
    many = [str(n) for n in range(MOST + 10)]
    assert kept(" ".join(many)).split() == many[:MOST]


def test_signs_made_of_capitals_are_found_by_their_letters() -> None:
    assert words("№5, 20℃ and 3㎒") == words("No5, 20°c AND 3MHZ")


def test_what_is_left_of_a_character_is_left_as_it_is() -> None:
    """Or it would matter in which order the characters of a text are looked at."""
    for char in map(chr, (*range(0xD800), *range(0xE000, 0x33480))):
        bare, *_ = words(f"_{char}_{char}_")
        assert words(bare) == [bare]
