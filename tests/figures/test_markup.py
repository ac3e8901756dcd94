import base64
import re

import cv2
import numpy as np
import pytest

from raygait.figures.markup import Html, element, join, picture


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param(
            "<script>alert(1)</script>", "&lt;script&gt;alert(1)&lt;/script&gt;", id="tag"
        ),
        pytest.param("\"a\" & 'b'", "&quot;a&quot; &amp; &#x27;b&#x27;", id="quotes"),
        pytest.param("步態 é.mp4", "步態 é.mp4", id="letters of any script stay"),
        pytest.param("bad\udcff.mp4", "bad?.mp4", id="a byte of a file name that is no text"),
        pytest.param("&lt;", "&amp;lt;", id="text that looks escaped already"),
    ],
)
def test_text_is_escaped_in_content_and_in_attributes(text, expected):
    made = element("td", text, title=text)
    assert made == f'<td title="{expected}">{expected}</td>'
    made.encode()


def test_markup_inside_an_element_is_kept():
    assert element("p", element("b", "a<b"), " c") == "<p><b>a&lt;b</b> c</p>"
    assert isinstance(join("x"), Html)


def test_attribute_names_are_those_of_html_and_none_leaves_one_out():
    made = element("td", class_="number", aria_label="x", colspan=2, title=None)
    assert made == '<td class="number" aria-label="x" colspan="2"></td>'


@pytest.mark.parametrize(
    ("photographic", "channels", "kind"),
    [(False, 3, "png"), (False, 4, "png"), (True, 3, "jpeg")],
)
def test_a_picture_holds_its_own_pixels(photographic, channels, kind):
    image = np.zeros((20, 40, channels), np.uint8)
    image[:, :20] = (250, 120, 10, 99)[:channels]
    made = picture(image, 'a "b"', photographic=photographic, scale=2)
    assert 'alt="a &quot;b&quot;" width="20" height="10"' in made
    found = re.search(r'src="data:image/(\w+);base64,([^"]+)"', made)
    assert found is not None
    assert found[1] == kind
    data = np.frombuffer(base64.b64decode(found[2]), np.uint8)
    decoded = cv2.imdecode(data, cv2.IMREAD_UNCHANGED)[:, :, [2, 1, 0, 3][:channels]]
    assert np.abs(decoded.astype(int) - image).max() <= (60 if photographic else 0)
    assert np.abs(decoded[10, 5, :3].astype(int) - (250, 120, 10)).max() < 5
