"""Language models: what they are asked and what they say."""

from bichat.model.chat import Model
from bichat.model.request import ChatMessage, ChatRequest, Chunk, Tokens, canonical

__all__ = ["ChatMessage", "ChatRequest", "Chunk", "Model", "Tokens", "canonical"]
