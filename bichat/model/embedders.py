"""The embedders of a process, by the name of their model."""

from __future__ import annotations

from bichat.config import Config
from bichat.errors import NotSimilar
from bichat.model import local
from bichat.model.embeddings import Embedder
from bichat.model.local import LocalEmbedder


class Embedders:
    """Made on first use; `name` is the model that the settings want, None when there is none."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self.name = config.bichat_embedding_model or (local.NAME if local.comes_along() else None)
        self._made: dict[str, Embedder] = {}

    def get(self, name: str | None = None) -> Embedder:
        """That of a model, else of the one wanted; raises `NotSimilar` for one that cannot be had here."""
        name = name or self.name
        if name is None:
            raise NotSimilar(
                why="no model makes embeddings: set BICHAT_EMBEDDING_MODEL, or install bichat[search]"
            )
        if name not in self._made:
            self._made[name] = self._make(name)
        return self._made[name]

    def _make(self, name: str) -> Embedder:
        if name == local.NAME:
            if not local.comes_along():
                raise NotSimilar(why=f"{name} is not installed here: it comes with bichat[search]")
            return LocalEmbedder()
        if self._config.brings_model:
            raise NotSimilar(why=f"{name} has no server: set OPENAI_BASE_URL or OPENAI_API_KEY")
        from bichat.model.remote import OpenAIEmbedder  # noqa: PLC0415 - a third of a second

        return OpenAIEmbedder(self._config, name)

    async def close(self) -> None:
        """Closes what was made."""
        for embedder in self._made.values():
            await embedder.close()
