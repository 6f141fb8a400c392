"""Merkle trees as in RFC 6962 and 9162: a root over hashes of leaves, and a path from one leaf to it.

Leaves and nodes are hashed with different first bytes, so that neither passes for the other. A node without a
sibling moves up as it is.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence


def leaf(data: bytes) -> bytes:
    """The hash of a leaf."""
    return hashlib.sha256(b"\x00" + data).digest()


def root(leaves: Sequence[bytes]) -> bytes:
    """The root over hashes of leaves, in their order; there is at least one."""
    level = list(leaves)
    while len(level) > 1:
        level = _above(level)
    return level[0]


def path(leaves: Sequence[bytes], index: int) -> list[bytes]:
    """What `climb` needs to get from one of these leaves to their root."""
    level, siblings = list(leaves), []
    while len(level) > 1:
        if index ^ 1 < len(level):
            siblings.append(level[index ^ 1])
        level, index = _above(level), index >> 1
    return siblings


def climb(leaf: bytes, index: int, size: int, path: Sequence[bytes]) -> bytes | None:
    """The root of a tree of `size` leaves to which `path` leads from its leaf `index`; None: to none."""
    if not 0 <= index < size:
        return None
    here, siblings = leaf, iter(path)
    while size > 1:
        if index ^ 1 < size:
            beside = next(siblings, None)
            if beside is None:
                return None
            here = _node(beside, here) if index & 1 else _node(here, beside)
        index, size = index >> 1, (size + 1) >> 1
    return here if next(siblings, None) is None else None


def _above(level: list[bytes]) -> list[bytes]:
    nodes = [_node(left, right) for left, right in zip(level[::2], level[1::2], strict=False)]
    return nodes + level[-1:] if len(level) % 2 else nodes


def _node(left: bytes, right: bytes) -> bytes:
    return hashlib.sha256(b"\x01" + left + right).digest()
