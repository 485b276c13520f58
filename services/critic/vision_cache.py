"""What the vision tower made of photographs seen lately. Adapters leave the tower as it is, so one entry serves all."""

from __future__ import annotations

import threading
from collections import OrderedDict

from services.critic.model import VisionFeatures, VisionInputs


class VisionCache:
    """Photographs by key: their patches (host) and features (device); least recently used out first.

    At most `max_bytes` of both together; 0 keeps nothing. Safe to use from several threads.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._lock = threading.Lock()
        self._entries: OrderedDict[str, tuple[VisionInputs, VisionFeatures]] = OrderedDict()
        self._bytes = 0
        self.hits = 0

    @property
    def nbytes(self) -> int:
        """Returns the bytes held."""
        return self._bytes

    def inputs(self, key: str) -> VisionInputs | None:
        """Returns the patches of a photograph, if they are here."""
        with self._lock:
            entry = self._entries.get(key)
            return entry[0] if entry else None

    def features(self, key: str) -> VisionFeatures | None:
        """Returns the features of a photograph, if they are here, and marks it as used."""
        with self._lock:
            entry = self._entries.get(key)
            if entry is None:
                return None
            self._entries.move_to_end(key)
            self.hits += 1
            return entry[1]

    def put(self, inputs: VisionInputs, features: VisionFeatures) -> None:
        """Keeps a photograph."""
        with self._lock:
            known = self._entries.pop(inputs.key, None)
            self._bytes -= _size(known) if known else 0
            self._entries[inputs.key] = (inputs, features)
            self._bytes += _size((inputs, features))
            while self._entries and self._bytes > self._max_bytes:
                self._bytes -= _size(self._entries.popitem(last=False)[1])

    def clear(self) -> None:
        """Forgets everything."""
        with self._lock:
            self._entries.clear()
            self._bytes = 0


def _size(entry: tuple[VisionInputs, VisionFeatures]) -> int:
    pixels = entry[0].pixels
    return pixels.numel() * pixels.element_size() + entry[1].nbytes
