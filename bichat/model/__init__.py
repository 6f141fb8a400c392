"""Language models: what they are asked and what they say."""

from typing import TYPE_CHECKING, Any

from bichat.model.request import ChatMessage, ChatRequest, Chunk, Named, Tokens, ToolCall, canonical

if TYPE_CHECKING:
    from bichat.model.chat import Model

__all__ = ["ChatMessage", "ChatRequest", "Chunk", "Model", "Named", "Tokens", "ToolCall", "canonical"]


def __getattr__(name: str) -> Any:
    """`Model` brings the OpenAI client along, a third of a second: only processes that call one import it."""
    if name != "Model":
        raise AttributeError(name)
    from bichat.model.chat import Model  # noqa: PLC0415

    return Model
