"""How results show themselves in a notebook: a heading with marks, tables, lines and links, as a piece of HTML."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

import pandas as pd

_MARK = "border:1px solid currentColor;border-radius:4px;padding:0 6px;margin-left:8px;font-size:85%;font-weight:normal"


def piece(
    title: str,
    marks: Sequence[str],
    tables: Mapping[str, pd.DataFrame],
    lines: Sequence[str],
    links: Mapping[str, str],
) -> str:
    """A result as HTML: its title with marks beside it, tables by their captions, lines, and links by their texts."""
    named = "".join(f'<span style="{_MARK}">{escape(mark)}</span>' for mark in marks)
    parts = [f"<p><b>{escape(title)}</b>{named}</p>"] if title else []
    for caption, table in tables.items():
        parts += [f"<p>{escape(caption)}</p>"] if caption else []
        parts.append(table.to_html(escape=True, border=0, index=False, na_rep="-"))
    parts += [f"<p>{escape(line)}</p>" for line in lines]
    parts += [f'<p><a href="{escape(url)}">{escape(text)}</a></p>' for text, url in links.items()]
    return f"<div>{''.join(parts)}</div>"
