r"""What a word is, wherever words are counted. Pure.

`\w+` takes a whole clause of Chinese, Japanese or Thai for one word, which no other text has: then every text is new and no label
has a word of its own. In scripts that set no spaces between words each character counts as one; in all others words are as usual.
"""

from __future__ import annotations

_UNSPACED = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003134f"
)
# Thai and Lao, Burmese, Khmer, kana, and the Han characters of Unicode's planes 0, 2 and 3

WORD = rf"[{_UNSPACED}]|[^\W{_UNSPACED}]+"
"""Every word."""
TELLING_WORD = rf"[{_UNSPACED}]|[^\W{_UNSPACED}]{{2,}}"
"""Single letters left out, as scikit-learn's vectorizers do."""
