"""Markdown as HTML that can do no harm: what the parser makes is sanitised again by another library."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import nh3
from markdown_it import MarkdownIt
from markdown_it.renderer import RendererHTML
from markdown_it.token import Token
from markdown_it.utils import OptionsDict
from markupsafe import Markup

LONGEST = 200_000
"""Characters; what is longer is shown as it is."""

_TAGS = {
    "a", "blockquote", "br", "code", "del", "div", "em", "h3", "h4", "h5", "h6", "hr", "li", "ol", "p", "pre",
    "s", "strong", "table", "tbody", "td", "th", "thead", "tr", "ul",
}  # fmt: skip
_CLEANER = nh3.Cleaner(
    tags=_TAGS,
    attributes={"a": {"href", "title"}, "ol": {"start"}, "th": {"scope"}, "div": {"tabindex", "role"}},
    allowed_classes={"div": {"scroll"}, "td": {"right", "center"}, "th": {"right", "center"}},
    url_schemes={"http", "https", "mailto"},
    link_rel="noopener noreferrer nofollow",
    set_tag_attribute_values={"a": {"target": "_blank"}},
)


class _Renderer(RendererHTML):
    """Headings below those of the page, tables that scroll by themselves, no style attributes."""

    def heading_open(self, tokens: Sequence[Token], idx: int, options: OptionsDict, env: Any) -> str:
        return f"<h{_level(tokens[idx])}>"

    def heading_close(self, tokens: Sequence[Token], idx: int, options: OptionsDict, env: Any) -> str:
        return f"</h{_level(tokens[idx])}>\n"

    def table_open(self, tokens: Sequence[Token], idx: int, options: OptionsDict, env: Any) -> str:
        return '<div class="scroll" tabindex="0"><table>\n'

    def table_close(self, tokens: Sequence[Token], idx: int, options: OptionsDict, env: Any) -> str:
        return "</table></div>\n"

    def th_open(self, tokens: Sequence[Token], idx: int, options: OptionsDict, env: Any) -> str:
        return f'<th scope="col"{_aligned(tokens[idx])}>'

    def td_open(self, tokens: Sequence[Token], idx: int, options: OptionsDict, env: Any) -> str:
        return f"<td{_aligned(tokens[idx])}>"


def _level(token: Token) -> int:
    return min(6, int(token.tag[1]) + 2)


def _aligned(token: Token) -> str:
    side = str(token.attrGet("style") or "").removeprefix("text-align:")
    return f' class="{side}"' if side in ("right", "center") else ""


# Without images: each would be a request that tells a stranger who reads what.
_PARSER = (
    MarkdownIt("commonmark", {"html": False, "breaks": True}, renderer_cls=_Renderer)
    .enable(["table", "strikethrough"])
    .disable("image")
)


def html(text: str) -> Markup:
    """A message as it is shown; whatever it holds, no script, no form, no frame and no image."""
    if len(text) > LONGEST:
        return Markup("<pre>{}</pre>").format(text)
    return Markup(_CLEANER.clean(_PARSER.render(text)))  # noqa: S704 - cleaned in this line
