import base64
import re
from html.parser import HTMLParser

import pytest

from nnunet_mtl.lab.demo.page import Command, Comparison, DiceRow, PageContent, Picture, write_page

PNG = b"\x89PNG not looked at"


def content(**changes):
    bare = {"title": "One run", "summary": "What ran.", "headline": {}, "shows": [], "shows_not": []}
    return PageContent(**{**bare, **changes})


def full():
    return content(
        headline={"organs, mean Dice": "0.812"},
        shows=["It runs."],
        shows_not=["Nothing about patients."],
        commands=[Command("nnUNetv2_train 900 3d_fullres 0", 3599.6), Command("nnUNetv2_predict -d 900", 2.34)],
        dice=[
            DiceRow("liver", "liver", 0.8126, 12),
            DiceRow("liver", "", 0.5, 12),
            DiceRow("spleen", "spleen", None, 0),
        ],
        overlays=[Picture("worst case", PNG), Picture("best case", PNG + b"2")],
        curves=Picture("loss", PNG + b"3"),
        comparison=Comparison("0.31 below", Picture("bars", PNG + b"4"), Command("nnUNetv2_train 901", 61)),
        settings={"epochs": 36},
        versions={"torch": "2.15"},
    )


class Elements(HTMLParser):
    """Every start tag with its attributes, all text, and whether each element is closed where it must be."""

    void = frozenset({"meta", "img"})

    def __init__(self, text):
        super().__init__()
        self.tags, self.words, self.open = [], [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in self.void:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())


def written(page, folder):
    path = write_page(page, folder / "new" / "index.html")
    assert path == folder / "new" / "index.html"
    text = path.read_text(encoding="utf-8")
    elements = Elements(text)
    assert elements.open == []
    return text, elements


def test_everything_is_on_the_page(tmp_path):
    _, elements = written(full(), tmp_path)
    for words in (
        "One run What ran. organs, mean Dice 0.812",
        "What this shows It runs. What this does not show Nothing about patients.",
        "liver liver 0.813 12 liver mean of its regions 0.500 12 spleen spleen none 0",
        "nnUNetv2_train 900 3d_fullres 0 60 min 00 s nnUNetv2_predict -d 900 2.3 s",
        "0.31 below nnUNetv2_train 901 (1 min 01 s)",
        "epochs 36",
        "torch 2.15",
    ):
        assert words in elements.text
    pictures = [base64.b64decode(tag["src"].split(",")[1]) for name, tag in elements.tags if name == "img"]
    assert pictures == [PNG + b"4", PNG, PNG + b"2", PNG + b"3"]
    assert [tag["alt"] for name, tag in elements.tags if name == "img"] == ["bars", "worst case", "best case", "loss"]


def test_the_page_needs_nothing_beside_it(tmp_path):
    text, elements = written(full(), tmp_path)
    assert "http" not in text
    assert not re.search(r"url\(|@import", text)
    assert {name for name, _ in elements.tags}.isdisjoint({"script", "link", "iframe", "object", "base"})
    for name, attributes in elements.tags:
        assert "href" not in attributes
        assert attributes.get("src", "data:image/png;base64,").startswith("data:image/png;base64,")
        assert not [attribute for attribute in attributes if attribute.startswith("on")], name


def test_the_page_follows_the_readers_light_or_dark_choice(tmp_path):
    text, _ = written(full(), tmp_path)
    assert "color-scheme: light dark" in text
    assert "prefers-color-scheme: dark" in text


@pytest.mark.parametrize(
    "change",
    [
        lambda evil: content(title=evil),
        lambda evil: content(summary=evil),
        lambda evil: content(headline={evil: evil}),
        lambda evil: content(shows=[evil], shows_not=[evil]),
        lambda evil: content(commands=[Command(evil, 1)]),
        lambda evil: content(dice=[DiceRow(evil, evil, 0.5, 1)]),
        lambda evil: content(overlays=[Picture(evil, PNG)]),
        lambda evil: content(comparison=Comparison(evil, Picture(evil, PNG), Command(evil, 1))),
        lambda evil: content(settings={evil: evil}, versions={evil: evil}),
    ],
)
def test_texts_are_never_markup(change, tmp_path):
    evil = '<script>alert(\'1\')</script>" onload="x" & {{ page.title }}'
    text, elements = written(change(evil), tmp_path)
    assert "<script" not in text
    assert "script" not in {name for name, _ in elements.tags}
    assert not any("onload" in attributes for _, attributes in elements.tags)
    assert evil in elements.text or any(evil == attributes.get("alt") for _, attributes in elements.tags)


def test_sections_without_content_are_left_out(tmp_path):
    text, elements = written(content(), tmp_path)
    headings = [name for name, _ in elements.tags if name in {"h2", "h3", "table", "figure", "dl"}]
    assert headings == []
    assert "None" not in text
    assert "research use" in elements.text


@pytest.mark.parametrize(
    ("change", "headings"),
    [
        ({"dice": [DiceRow("liver", "liver", float("nan"), 0)]}, ["Dice per task and region"]),
        ({"curves": Picture("loss", PNG)}, ["Training"]),
        ({"comparison": Comparison("less", Picture("bars", PNG))}, ["Comparison"]),
        ({"versions": {"torch": 2}}, ["Versions"]),
    ],
)
def test_every_section_stands_alone(change, headings, tmp_path):
    text, elements = written(content(**change), tmp_path)
    assert re.findall(r"<h2>(.*?)</h2>", text) == headings
    assert "nan" not in elements.text


def test_bars_of_the_table_are_as_long_as_their_dice(tmp_path):
    _, elements = written(full(), tmp_path)
    assert [tag["style"] for name, tag in elements.tags if name == "span"] == [
        "width: 81.3%",
        "width: 50.0%",
        "width: 0.0%",
    ]
