"""What an operator watches of the critic, beside the metrics of every service."""

from __future__ import annotations

from typing import Final

from prometheus_client import Counter, Gauge, Histogram

FIRST_TOKEN_SECONDS: Final = Histogram(
    "mondrian_critic_first_token_seconds",
    "Seconds from arrival to the first token.",
    buckets=(0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30),
)
TOKENS: Final = Counter("mondrian_critic_tokens_total", "Tokens of finished critiques.", ["kind"])
FINISHED: Final = Counter("mondrian_critic_finished_total", "Finished critiques, by why they ended.", ["reason"])
FELL_BACK: Final = Counter("mondrian_critic_fell_back_total", "Critiques by the base model for want of an adapter.")
INVENTED: Final = Counter(
    "mondrian_critic_invented_titles_total", "Titles that critiques with context name and were not given."
)
ROWS: Final = Gauge("mondrian_critic_rows", "Critiques that are being written.")
ADAPTERS: Final = Gauge("mondrian_critic_adapters", "Adapters by state.", ["state"])
