"""Embedding under load: photographs and texts of many callers, each kind in batches of its own."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

from PIL import Image

from services.core.batching.engine import Computed, Engine
from services.core.errors import InvalidText
from services.embedder.encoder import Encoder, Pixels, Tokens, Vector
from services.embedder.settings import EmbedderSettings

MAX_TEXT_CHARS = 1_000


@dataclass(frozen=True)
class _Photograph:
    pixels: Pixels


@dataclass(frozen=True)
class _Text:
    tokens: Tokens


class EmbeddingEngine(Engine[_Photograph | _Text, Vector]):
    """Runs an encoder for many callers; the results are embeddings of unit length."""

    def __init__(
        self,
        encoder: Encoder,
        settings: EmbedderSettings,
        known: Callable[[str], Vector | None] = lambda _: None,
    ) -> None:
        """`known` returns the embedding of a photograph by its sha256 where a release has it."""
        self.encoder = encoder
        super().__init__("encoder", settings, known)

    async def text(self, text: str, *, deadline: float | None) -> Computed[Vector]:
        """Returns the embedding of a text of 1 to 1,000 characters; see `photograph` for the other errors.

        Raises:
            InvalidText: the text is blank or too long.
        """
        if not text.strip():
            raise InvalidText("The text is empty; describe in a few words what to look for.", field="text")
        if len(text) > MAX_TEXT_CHARS:
            raise InvalidText(f"The text has {len(text):,} characters; send at most {MAX_TEXT_CHARS:,}.", field="text")
        return await self._computed(f"text {text}", lambda: _Text(self.encoder.tokenize(text)), deadline)

    async def warm_up(self) -> None:
        """Runs both towers once, so that the first caller does not pay for what they prepare."""
        await self._submit(lambda: _Photograph(self.encoder.pixels(Image.new("RGB", (256, 256)))))
        await self._submit(lambda: _Text(self.encoder.tokenize("a photograph")))

    def _decode(self, content: bytes) -> _Photograph:
        return _Photograph(self.encoder.pixels(self.encoder.photograph(content, self._limits)))

    def _kind(self, item: _Photograph | _Text) -> Hashable:
        return isinstance(item, _Photograph)

    def _run(self, items: list[_Photograph | _Text]) -> Sequence[Vector]:
        photographs = [item.pixels for item in items if isinstance(item, _Photograph)]
        if photographs:
            rows = self.encoder.forward_images(photographs)
        else:
            rows = self.encoder.forward_texts([item.tokens for item in items if isinstance(item, _Text)])
        # Each by itself: one that is remembered must not keep the whole batch in memory.
        return [row.copy() for row in rows]
