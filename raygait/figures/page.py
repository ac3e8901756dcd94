"""A page around its sections: one HTML file that needs no other file, no network and no script."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from raygait.figures.markup import Html, element
from raygait.figures.page_style import CSS


@dataclass(frozen=True)
class Section:
    """A part of a page.

    Attributes:
        key: Its name in links.
        title: Its heading.
        content: What is below the heading.
    """

    key: str
    title: str
    content: Html


def whole_page(
    title: str, header: Sequence[Html], sections: Sequence[Section], *, style: str = ""
) -> str:
    """The whole file as text.

    Args:
        title: What a browser's tab says.
        header: What stands above the links to the sections.
        sections: In order.
        style: Rules in addition to `page_style.CSS`.
    """
    links = element("nav", *(element("a", s.title, href=f"#{s.key}") for s in sections))
    body = element(
        "body",
        element("header", *header),
        links if sections else "",
        element(
            "main",
            *(element("section", element("h2", s.title), s.content, id=s.key) for s in sections),
        ),
    )
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", name_="viewport", content_="width=device-width, initial-scale=1"),
        # The browser itself refuses whatever is not in this file.
        element(
            "meta",
            http_equiv="Content-Security-Policy",
            content_="default-src 'none'; img-src data:; style-src 'unsafe-inline'",
        ),
        element("title", title),
        element("style", Html(CSS + style)),
    )
    return f"<!doctype html>\n{element('html', head, body, lang='en')}\n"


def fact_list(facts: Sequence[tuple[str, str]]) -> Html:
    """The few numbers that someone who reads nothing else should see; nothing for none.

    Args:
        facts: Each a value, and what it is.
    """
    if not facts:
        return Html("")
    lines = (element("div", element("dt", what), element("dd", value)) for value, what in facts)
    return element("dl", *lines, class_="facts")
