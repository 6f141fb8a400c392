"""The Postgres, Valkey and small model that bichat brings along when no URL is given."""

from bichat.embedded.directory import owner, refuse_if_owned
from bichat.embedded.part import Part
from bichat.embedded.secrets import with_secrets
from bichat.embedded.servers import Servers, api, attached_or_owned, owned

__all__ = [
    "Part",
    "Servers",
    "api",
    "attached_or_owned",
    "owned",
    "owner",
    "refuse_if_owned",
    "with_secrets",
]
