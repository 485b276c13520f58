"""README's tables of settings and errors, made from the code.

python -m tests.readme.tables          writes them into README.md
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from services.core import errors, settings
from services.critic.settings import CriticSettings
from services.embedder.settings import EmbedderSettings
from services.gateway.settings import GatewaySettings
from services.scorer.settings import ScorerSettings

README: Final = Path(__file__).resolve().parents[2] / "README.md"
SHARED: Final = {
    settings.CommonSettings: "MONDRIAN_",
    settings.ServiceSettings: "MONDRIAN_<SERVICE>_",
    settings.ModelSettings: "MONDRIAN_<EMBEDDER, CRITIC or SCORER>_",
    settings.ReferenceSettings: "MONDRIAN_<EMBEDDER or SCORER>_",
}
"""The settings of several services, and the prefix that stands for theirs."""
OWN: Final = (GatewaySettings, EmbedderSettings, CriticSettings, ScorerSettings)


def _own_fields(kind: type[settings.CommonSettings]) -> list[str]:
    """Returns the fields that a class declares itself, or whose default it changes."""
    parent = kind.__mro__[1]
    inherited = getattr(parent, "model_fields", {})
    return [
        name
        for name, field in kind.model_fields.items()
        if name not in inherited or inherited[name].default != field.default
    ]


def _default(value: object) -> str:
    if value is None or value in ("", frozenset()):
        return "unset"
    if isinstance(value, Path):
        text = value.as_posix()
    elif isinstance(value, bool):
        text = str(value).lower()
    else:
        text = str(int(value)) if isinstance(value, int) else str(value)
    return f"`{text}`"


def settings_table() -> str:
    """Returns a table of every setting: variable, default, meaning."""
    rows = ["| variable | default | meaning |", "|---|---|---|"]
    for kind in (*SHARED, *OWN):
        prefix = SHARED.get(kind) or kind.prefix()
        for name in _own_fields(kind):
            field = kind.model_fields[name]
            meaning = " ".join((field.description or "").split()).replace("|", "\\|")
            rows.append(f"| `{prefix}{name.upper()}` | {_default(field.default)} | {meaning} |")
    return "\n".join(rows)


def errors_table() -> str:
    """Returns the table of errors: exception's meaning, code, reason."""
    rows = ["| code | reason | meaning |", "|---|---|---|"]
    for kind, row in errors.TABLE.items():
        meaning = " ".join((kind.__doc__ or "").split("\n\n")[0].split())
        rows.append(f"| {row.code.name} | {row.reason} | {meaning} |")
    rows.append("| INTERNAL | INTERNAL | A fault of the service; the message carries the request id. |")
    return "\n".join(rows)


TABLES: Final = {"settings": settings_table, "errors": errors_table}


def filled(text: str) -> str:
    """Returns README's text with every table between its marks made anew."""
    for name, table in TABLES.items():
        pattern = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
        place = pattern.search(text)
        assert place, f"README has no place for {name}"
        start, end = place.regs[1:]
        text = text[: start[1]] + table() + "\n" + text[end[0] :]
    return text


if __name__ == "__main__":
    README.write_text(filled(README.read_text()))
