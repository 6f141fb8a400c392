"""The yardstick of P2: a bare Litestar route with one INSERT of a row like ours, and nothing else.

`python -m bench.bare PORT URL`: no token, no logic, no log; uvicorn as bichat runs it. The row is the
newest message of the log in that database, in a table with the columns and indexes of that log.
"""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from uuid import UUID

import uvicorn
from litestar import Litestar, post
from litestar.datastructures import State
from litestar.params import FromPath, JSONBody
from msgspec import Struct
from psycopg_pool import AsyncConnectionPool

CONNECTIONS = 8
"""Of the pool: with fewer or more it is slower on two cores."""

TABLE = """
create schema yardstick;
create table yardstick.stored_events (like bichat.stored_events including all);
create sequence yardstick.position as bigint cache 1;
create table yardstick.sample as
    select * from bichat.stored_events where topic = 'MessageAdded' order by notification_id desc limit 1;
"""
INSERT = """
insert into yardstick.stored_events (originator_id, originator_version, topic, state, tenant_id, command_id,
    hash, actor, notification_id)
select %s, position, %s, %s, %s, %s, %s, %s, position from nextval('yardstick.position') as position
returning notification_id
"""
SAMPLE = "select topic, state, tenant_id, command_id, hash, actor from yardstick.sample"


class Said(Struct):
    """What is posted."""

    content: str


class Accepted(Struct):
    """What is answered."""

    position: int


@post("/v1/dialogues/{dialogue_id:str}/messages", status_code=202)
async def add(state: State, dialogue_id: FromPath[UUID], data: JSONBody[Said]) -> Accepted:
    """Keeps what was said."""
    async with state.pool.connection() as connection:
        cursor = await connection.execute(INSERT, (dialogue_id, *state.row), prepare=True, binary=True)
        [position] = await cursor.fetchone()
    return Accepted(position)


def app(url: str) -> Litestar:
    """The application on a database that has `TABLE`."""

    @asynccontextmanager
    async def opened(app: Litestar) -> AsyncIterator[None]:
        pool = AsyncConnectionPool(
            url, min_size=CONNECTIONS, max_size=CONNECTIONS, open=False, kwargs={"autocommit": True}
        )
        async with pool:
            await pool.wait()
            async with pool.connection() as connection:
                cursor = await connection.execute(SAMPLE, binary=True)
                app.state.pool, app.state.row = pool, await cursor.fetchone()
            yield

    return Litestar([add], lifespan=[opened], openapi_config=None, logging_config=None)


def main() -> None:
    """Serves until SIGTERM."""
    port, url = sys.argv[1:]
    uvicorn.run(
        app(url), port=int(port), loop="uvloop", http="httptools", ws="none", lifespan="on", log_config=None,
        access_log=False, server_header=False, proxy_headers=False,
    )  # fmt: skip


if __name__ == "__main__":
    main()
