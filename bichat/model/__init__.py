"""Language models: what they are asked and what they say."""

from bichat.model.chat import Model
from bichat.model.request import ChatMessage, ChatRequest, Chunk, Named, Tokens, ToolCall, canonical

__all__ = ["ChatMessage", "ChatRequest", "Chunk", "Model", "Named", "Tokens", "ToolCall", "canonical"]
