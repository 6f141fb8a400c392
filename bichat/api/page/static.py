"""The page's own script, style and icon, out of the package."""

from __future__ import annotations

from functools import cache
from hashlib import sha256
from importlib import resources

from litestar import Response, Router, get
from litestar.exceptions import NotFoundException
from litestar.params import FromPath

from bichat.api.page.visit import Visit

KINDS = {"css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}


@get("/{name:str}")
async def static_file(request: Visit, name: FromPath[str]) -> Response[bytes | None]:
    """One file; browsers ask whether it has changed, so that a new version is never mixed with an old one."""
    found = _files().get(name)
    if found is None:
        raise NotFoundException
    content, tag = found
    headers = {"Cache-Control": "no-cache", "ETag": tag}
    if tag in request.headers.get("If-None-Match", ""):
        return Response(None, status_code=304, headers=headers)
    return Response(content, headers=headers, media_type=KINDS[name.rpartition(".")[2]])


@cache
def _files() -> dict[str, tuple[bytes, str]]:
    found = {}
    for file in resources.files("bichat.api.page").joinpath("static").iterdir():
        if file.name.rpartition(".")[2] in KINDS:
            content = file.read_bytes()
            found[file.name] = (content, f'"{sha256(content).hexdigest()[:16]}"')
    return found


router = Router("/static", route_handlers=[static_file])
