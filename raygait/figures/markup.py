"""HTML that is escaped by construction: text becomes markup in one place only."""

from __future__ import annotations

import base64
import html

import cv2
import numpy as np
from jaxtyping import UInt8
from numpy import ndarray

_VOID = {"img", "meta"}


class Html(str):
    """Markup, to be put into a page as it is. Everything else that is a string is text."""

    __slots__ = ()


def element(name: str, *content: str, **attributes: str | int | None) -> Html:
    """An element; text in it and in its attributes is escaped.

    Args:
        name: Name of the element.
        content: Markup (`Html`) or text, one after another.
        attributes: A name ends in `_` where Python has taken it (`class_`); other `_` become `-`.
            None leaves an attribute out.
    """
    opened = name + "".join(
        f' {key.rstrip("_").replace("_", "-")}="{_escape(str(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    if name in _VOID:
        return Html(f"<{opened}>")
    return Html(f"<{opened}>{join(*content)}</{name}>")


def join(*content: str) -> Html:
    """Markup and text one after another."""
    return Html("".join(part if isinstance(part, Html) else _escape(part) for part in content))


def picture(
    image: UInt8[ndarray, "h w c"], alternative: str, *, photographic: bool = False, scale: int = 1
) -> Html:
    """A picture inside the page itself, as a data URI.

    Args:
        image: RGB, or RGBA in pictures that are not photographic.
        alternative: What it shows, for those who do not see it.
        photographic: JPEG, a fifth of the size; PNG, exact and with transparency, otherwise.
        scale: Pixels of the picture a pixel of the page.
    """
    height_px, width_px, num_channels = image.shape
    order = {3: cv2.COLOR_RGB2BGR, 4: cv2.COLOR_RGBA2BGRA}[num_channels]
    suffix, kind, options = (
        (".jpg", "jpeg", [cv2.IMWRITE_JPEG_QUALITY, 82])
        if photographic
        else (".png", "png", [cv2.IMWRITE_PNG_COMPRESSION, 9])
    )
    _, encoded = cv2.imencode(suffix, cv2.cvtColor(np.ascontiguousarray(image), order), options)
    data = base64.b64encode(encoded.tobytes()).decode()
    return element(
        "img",
        src=f"data:image/{kind};base64,{data}",
        alt=alternative,
        width=width_px // scale,
        height=height_px // scale,
    )


def _escape(text: str) -> str:
    # File names may hold bytes that are no text; Python keeps them as lone surrogates.
    return html.escape(text.encode("utf-8", "replace").decode())
