"""The words of a text, whatever its language: without case and accents, as they are searched."""

from __future__ import annotations

import unicodedata

MOST, LONGEST = 5_000, 40
"""Words of one message, and characters of a word, that are kept. Postgres keeps 1 MB of words at most."""
ASKED = 32
"""Words that are looked for at once."""
KNOWN = 20_000
"""Characters whose letters are remembered: people use few, and who sends all there are fills no memory."""
_PREFIX = 4
"""Letters from which on a word also stands for longer ones: "invoice" for "invoices"."""
_ASCII = bytes(range(128))
_SMALL = bytes(
    c if c > 127 or chr(c) == "_" else ord(chr(c).lower() if chr(c).isalnum() else " ") for c in range(256)
)
"""The same for each byte of ASCII."""


class _Bare(dict[str, str]):
    """What is left of a character: small letters without accents, and blanks for what no word is made of."""

    def __missing__(self, char: str) -> str:
        plain = char
        for _ in range(2):  # "№" comes to "No" first
            plain = unicodedata.normalize("NFKD", plain.casefold())
        bare = "".join(c if c.isalnum() or c == "_" else " " for c in plain if not unicodedata.combining(c))
        if len(self) < KNOWN:
            self[char] = bare
        return bare


_bare = _Bare()


def words(text: str) -> list[str]:
    """The different words of a text, in order."""
    return list(dict.fromkeys(word[:LONGEST] for word in _apart(text).decode().split()))


def kept(text: str) -> str:
    """The words of a message, each once (as COPY needs them), in any order, with blanks between them."""
    # A rebuild spends much of its time here: what is surely within both bounds is counted in bytes.
    found = set(_apart(text).split())
    if len(found) > MOST or len(max(found, key=len, default=b"")) > LONGEST:
        return " ".join(words(text)[:MOST])
    return b" ".join(found).decode()


def asked(text: str) -> list[str]:
    """The words to look for, as Postgres takes them."""
    return [f"'{word}':*" if len(word) >= _PREFIX else f"'{word}'" for word in words(text)[:ASKED]]


def _apart(text: str) -> bytes:
    """The words in UTF-8 with blanks between them. Of characters beyond ASCII, each is looked at once."""
    apart = text.encode().translate(_SMALL)
    if not text.isascii():
        found = apart.decode()
        for char in set(apart.translate(None, _ASCII).decode()):
            if (bare := _bare[char]) != char:
                found = found.replace(char, bare)
        apart = found.encode()
    return apart
