"""A page for a reviewer: users' texts made safe within Markdown, and Markdown as an HTML file that MLflow shows in place."""

from __future__ import annotations

from html import escape

from registry.tracker.pages import plain

LONGEST = 200
NOTE = 5000
"""Characters of a text in a page, and of a note above a run."""


def quoted(text: str, most: int = LONGEST) -> str:
    """What a user wrote, on one line, cut, and with nothing in it that Markdown or HTML would obey."""
    return plain(text, most)


def cell(text: str) -> str:
    """`quoted`, for a table, in which nothing is empty."""
    return quoted(text) or " "


def note(markdown: str) -> str:
    """The beginning of a page, as long as MLflow keeps a note; cut between lines."""
    if len(markdown) <= NOTE:
        return markdown
    return markdown[:NOTE].rpartition("\n")[0] + "\n\n(the whole page is among the artifacts)"


def page(title: str, markdown: str) -> str:
    """The HTML of a page: the headings, tables, lists and emphasis that our own pages are made of."""
    from markdown_it import MarkdownIt  # what rich renders Markdown with

    body = MarkdownIt("commonmark", {"html": False}).enable("table").render(markdown)
    style = "body{font:15px/1.5 sans-serif;max-width:60em;margin:2em auto}td,th{padding:.2em .8em;text-align:left}"
    return f"<!doctype html><meta charset=utf-8><title>{escape(title)}</title><style>{style}</style>{body}"
