"""A server that speaks OpenAI's protocol: one client for it, and its errors in our words, without secrets."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

import openai

from bichat.config import Config
from bichat.errors.model import ModelError, ModelNonsense, ModelSilent, ModelUnavailable
from bichat.model import wire


class Server:
    """The one that the settings name. Never tries again by itself."""

    def __init__(self, config: Config, silence: float) -> None:
        """`silence`: seconds without a word after which it counts as silent; who calls keeps them."""
        self._secret, self._silence = config.openai_api_key, silence
        self.client = openai.AsyncOpenAI(
            api_key=self._secret or "none",
            base_url=config.openai_base_url,
            max_retries=0,
            timeout=openai.Timeout(None, connect=10.0),
            # People's text goes to the server that was named, not where that one points.
            http_client=openai.DefaultAsyncHttpxClient(
                follow_redirects=False, event_hooks={"response": [wire.bound]}
            ),
        )

    async def close(self) -> None:
        """Closes the connections."""
        await self.client.close()

    @contextmanager
    def plainly(
        self, broken: type[ModelError] = ModelUnavailable, *, offered: bool = False
    ) -> Iterator[None]:
        """Turns what the client raises into errors of ours; a connection that breaks is a `broken`.

        `offered`: functions were, which a server may refuse.
        """
        try:
            yield
        except ModelError:
            raise
        except openai.APIStatusError as error:
            wait = wire.retry_after(error.response.headers.get("retry-after", ""))
            told = self._told(wire.message(error))
            raise wire.refusal(error.status_code, told, wait, offered=offered) from None
        except TimeoutError:
            raise ModelSilent(seconds=f"{self._silence:g}") from None
        except openai.APIConnectionError as error:
            cause = error.__cause__ or error
            raise broken(detail=self._told(str(cause) or type(cause).__name__)) from None
        except openai.APIError as error:  # an error object where an answer should be
            raise wire.refusal(wire.status_in(error.body), self._told(wire.message(error)), None) from None
        except Exception as error:  # bytes can be wrong in more ways than the client has names for
            raise ModelNonsense(detail=type(error).__name__) from None

    def _told(self, said: str) -> str:
        """What the server said, fit for a person's eyes: one short line, no key."""
        if self._secret and len(self._secret) > 7:  # a made-up key like "local" is a word as well
            said = said.replace(self._secret, "***")
        said = re.sub(r"\b(sk-|key-|Bearer )[\w.*-]{6,}", "***", " ".join(wire.clean(said).split()))
        return said if len(said) <= 300 else said[:299] + "…"
