"""`bichat audit`: what happened, who did it and when, a dialogue as it was, and what the model was shown."""

from __future__ import annotations

import click


@click.group()
def audit() -> None:
    """What happened, who did it, and when; a dialogue as it was; what the model was shown.

    Deleted, archived and erased dialogues too. Every reading is itself recorded, before anything is shown.
    """
