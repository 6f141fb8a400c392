"""What a worker's models may call, and what those functions reach."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING
from uuid import UUID

from bichat.config import Config
from bichat.wiring import opened

if TYPE_CHECKING:
    from bichat.workers.toolbox import Toolbox

NOBODY = UUID(int=0)


@asynccontextmanager
async def toolbox(config: Config) -> AsyncIterator[Toolbox]:
    """The functions and what they work with; empty where models are offered none."""
    from bichat.analytics import Analytics
    from bichat.model.embedders import Embedders
    from bichat.projections.finding import Search
    from bichat.projections.reads import Reads
    from bichat.workers.function import Reach
    from bichat.workers.toolbox import Toolbox, found

    if not config.bichat_functions:
        yield Toolbox(())
        return
    analytics = Analytics(config.analytics_database_url) if config.analytics_database_url else None
    if analytics and not analytics.shared:
        analytics.usable(NOBODY)  # an unfit role is told of when the worker starts, not at a question
    reads, embedders = Reads(opened.url(config), size=2), Embedders(config)
    await reads.open()
    try:
        yield Toolbox(found(), Reach(analytics=analytics, search=Search(reads, embedders)))
    finally:
        if analytics:
            await analytics.close()
        await reads.close()
        await embedders.close()
