"""Tokens as a person's identity provider would make them."""

from __future__ import annotations

import time
from typing import Any

import jwt

from tests.examples import TENANT

SECRET = "a secret of at least thirty-two bytes"


def token(user: str = "anna", *, key: Any = SECRET, algorithm: str = "HS256", **claims: object) -> str:
    """A good token for an hour; a claim given as None is left out."""
    given = {"sub": user, "tenant": str(TENANT), "exp": int(time.time()) + 3600, **claims}
    headers = {"kid": kid} if (kid := given.pop("kid", None)) else None
    payload = {name: value for name, value in given.items() if value is not None}
    return jwt.encode(payload, key, algorithm, headers=headers)
