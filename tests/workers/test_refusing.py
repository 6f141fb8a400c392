"""Models that take no functions are remembered for a while, and not too many."""

from __future__ import annotations

import pytest

from bichat.workers import refusing
from bichat.workers.refusing import KEPT, MOST, Refusing


def test_a_model_is_offered_functions_again_after_a_while(caplog: pytest.LogCaptureFixture) -> None:
    now = [0.0]
    models = Refusing(lambda: now[0])
    assert "m" not in models
    models.add("m")
    now[0] = KEPT - 1
    models.add("m")
    assert "m" in models
    assert [record.name for record in caplog.records] == [refusing.__name__], "it is said once"
    now[0] = KEPT
    assert "m" not in models, "what is heard again and again meanwhile keeps it no longer"


def test_made_up_names_do_not_fill_the_memory() -> None:
    models = Refusing()
    for n in range(MOST + 1):
        models.add(f"m{n}")
    assert "m0" not in models
    assert f"m{MOST}" in models
