"""Pages hold no foreign code, load nothing, and show what they were given."""

import base64
import io
import re
from html.parser import HTMLParser

import numpy as np
from PIL import Image

from medssl.pages.page import Picture, bars, gallery, grid, page, section, table, tiles, verdicts
from medssl.pages.picture import data_uri

NASTY = '<script src="https://example.org/x.js">alert(1)</script>"&'
VOID = {"meta", "img", "br", "link"}


class Nesting(HTMLParser):
    def __init__(self):
        super().__init__()
        self.open, self.seen, self.text = [], [], ""

    def handle_starttag(self, tag, attrs):
        self.seen.append(tag)
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def whole(text):
    blocks = [
        verdicts([("good", text), ("bad", text)]),
        tiles([(text, text, text), ("1", "b", "")]),
        grid(bars(text, [(text, 3), ("b", 0)])),
        table([text, "n"], [[text, 1], [f"`{text}`", 2.5]]),
        gallery([Picture(title=text, caption=text, hidden=text)]),
        gallery([Picture(title="x", caption="y", data_uri=data_uri(np.zeros((1, 4, 4))))]),
    ]
    return page(text, text, [section(text, *blocks, note=text)], text)


def test_text_of_any_kind_stays_text():
    parser = Nesting()
    parser.feed(whole(NASTY))
    assert parser.open == []
    assert "script" not in parser.seen and "link" not in parser.seen
    assert parser.text.count("alert(1)") >= 12


def test_nothing_is_loaded_from_elsewhere():
    text = whole("plain")
    assert not re.search(r"https?:|//[a-z]|url\(|@import|<script|<link", text)
    assert set(re.findall(r'src="(.{0,11})', text)) == {"data:image/"}


def test_empty_blocks_leave_no_heading():
    assert section("t", bars("x", []), table(["a"], []), gallery([]), verdicts([])) == ""


def test_bars_are_as_long_as_their_share():
    assert re.findall(r"width:([\d.]+)%", bars("t", [("a", 1), ("b", 4)])) == ["100.0", "25.0"]


def test_a_picture_survives_as_png():
    ramp = np.linspace(0, 1, 64).reshape(1, 8, 8)
    content = base64.b64decode(data_uri(ramp).partition(",")[2])
    pixels = np.asarray(Image.open(io.BytesIO(content)))
    np.testing.assert_array_equal(pixels, np.rint(255 * ramp[0]))
    wide = np.zeros((3, 10, 1000))
    shrunk = Image.open(io.BytesIO(base64.b64decode(data_uri(wide).partition(",")[2])))
    assert shrunk.size == (192, 2) and shrunk.mode == "RGB"
