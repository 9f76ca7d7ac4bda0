r"""What a word is, wherever words are counted, and which texts are one. Pure.

`\w+` takes a whole clause of Chinese, Japanese or Thai for one word, which no other text has: then every text is new and no label
has a word of its own. In scripts that set no spaces between words each character counts as one; in all others words are as usual.
"""

from __future__ import annotations

import unicodedata

_UNSPACED = (
    "\u0e01-\u0e3a\u0e40-\u0e4e\u0e50-\u0e59\u0e80-\u0eff"  # Thai, Lao
    "\u1000-\u1049\u1050-\u109f\u1780-\u17d3\u17e0-\u17e9"  # Burmese, Khmer
    "\u3005-\u3007\u3041-\u309f\u30a1-\u30fa\u30fc-\u30ff\uff66-\uff9f"  # kana
    "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U000323af"  # Han
)

WORD = rf"[{_UNSPACED}]|[^\W{_UNSPACED}]+"
"""Every word."""
TELLING_WORD = rf"[{_UNSPACED}]|[^\W{_UNSPACED}]{{2,}}"
"""Single letters left out, as scikit-learn's vectorizers do."""


def as_name(text: str) -> str:
    """A label or a unit as it is kept: without space around it, and its accents in one form (NFC), so that one name is one."""
    return unicodedata.normalize("NFC", text.strip())


def folded(text: str) -> str:
    """The same of all texts that differ in space, case or form of their characters alone: most of what users ask twice does."""
    plain = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    return " ".join(plain.split())
