"""Pages of a listing (AIP-158)."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Sequence
from typing import Final, TypeVar

from services.core.errors import InvalidArgument

DEFAULT_PAGE_SIZE: Final = 50
MAX_PAGE_SIZE: Final = 200

T = TypeVar("T")


def page(items: Sequence[T], page_size: int, page_token: str, key: Callable[[T], str]) -> tuple[list[T], str]:
    """Returns one page of `items`, and the token of the next page (empty on the last).

    `items` ascend by `key`, whose values are distinct. The token names the last key that was given, so a listing
    stays right while items come and go between two pages. page_size 0 means 50, more than 200 means 200.

    Raises:
        InvalidArgument: page_size is negative, or page_token was not given by this function.
    """
    if page_size < 0:
        raise InvalidArgument("page_size must not be negative; 0 means the default of 50.", field="page_size")
    size = min(page_size or DEFAULT_PAGE_SIZE, MAX_PAGE_SIZE)
    after = _decode(page_token)
    rest = [item for item in items if after is None or key(item) > after]
    chosen = rest[:size]
    return chosen, _encode(key(chosen[-1])) if len(rest) > size else ""


def _encode(last_key: str) -> str:
    return base64.urlsafe_b64encode(f"after:{last_key}".encode()).decode()


def _decode(token: str) -> str | None:
    if not token:
        return None
    try:
        text = base64.b64decode(token.encode(), altchars=b"-_", validate=True).decode()
    except (binascii.Error, UnicodeError, ValueError):
        text = ""
    if not text.startswith("after:"):
        raise InvalidArgument(
            "page_token is not one that this listing gave; start again with an empty one.", field="page_token"
        )
    return text.removeprefix("after:")
