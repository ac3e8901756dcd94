import dataclasses
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import cv2
import numpy as np
import pytest

from raygait.errors import CorruptShard
from raygait.figures.page_style import CSS
from raygait.figures.report import DistanceTable, Report, render, write_report
from raygait.shards import codec

EVIL = "\"><script>alert('步態')</script>.mp4"
VOID = {"img", "meta"}
SECTIONS = {
    "tracks": ("tracks", "all_tracks"),
    "rejects": ("rejects",),
    "walkers": ("walkers",),
    "training": ("history", "recipe"),
    "benchmark": ("evaluation",),
    "distances": ("distances",),
    "grid": ("grid",),
    "versions": ("versions", "timings"),
    "commands": ("commands",),
    "missing": ("missing",),
}


class Page(HTMLParser):
    """Elements of a page; refuses what is not closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)

    def attributes(self, name):
        return [values[name] for _, values in self.elements if name in values]

    @property
    def sections(self):
        return [values["id"] for tag, values in self.elements if tag == "section"]


@pytest.fixture
def whole(make_row, history, evaluation) -> Report:
    tracks = [make_row(f"clips/{EVIL}#{number}", source=EVIL) for number in (1, 2)]
    walkers = [
        make_row(
            f"walks/{subject}/{condition}/090",
            subject=subject,
            condition=condition,
            view="090",
            track=0,
            pictures=False,
        )
        for subject in ("001", EVIL)
        for condition in ("bg-01", "nm-01")
    ]
    return Report(
        title=EVIL,
        about=EVIL,
        tracks=tracks,
        all_tracks=[*tracks, make_row("clips/third#1")],
        rejects=[{"source": EVIL, "track": -1, "stage": EVIL, "reason": EVIL, "detail": EVIL}],
        walkers=walkers,
        about_walkers=EVIL,
        history=history,
        recipe={"name": EVIL, "source": EVIL, EVIL: EVIL},
        evaluation={**evaluation, "protocol": EVIL, "split": EVIL},
        distances=DistanceTable([EVIL, "b"], [[0.0, 1.5], [1.5, 0.0]]),
        grid=f"* {EVIL}",
        versions={EVIL: {EVIL: EVIL}},
        timings={EVIL: 3.0},
        commands=[(EVIL, f"python {EVIL}")],
        missing=[EVIL],
    )


@pytest.fixture
def light(whole) -> Report:
    """The same with one small chart, which is quick to draw."""
    return dataclasses.replace(whole, history=[{"step": 120, "loss": 1.0}])


def test_a_whole_report_has_every_section_and_a_link_to_each(whole):
    page = Page(render(whole))
    assert page.sections == list(SECTIONS)
    assert page.attributes("href") == [f"#{key}" for key in SECTIONS]


def test_nothing_is_loaded_from_anywhere(whole):
    page = Page(render(whole))
    assert {tag for tag, _ in page.elements} & {"script", "link", "iframe", "object"} == set()
    sources = page.attributes("src")
    assert len(sources) == 2 + 4 + 2 + 6 + 1  # strips, walks, walks in time, curves, matrix
    assert all(source.startswith("data:image/") for source in sources)
    text = render(dataclasses.replace(whole, grid="")).lower()
    for word in ("http:", "https:", "file:", "url(", "@import", "//"):
        assert word not in "".join(part for part in text.split('"') if "base64" not in part), word


def test_names_from_outside_are_text_wherever_they_stand(light):
    page = Page(render(light))
    assert "".join(page.text).count(EVIL) >= 20


@pytest.mark.parametrize("section", SECTIONS)
def test_each_section_is_left_out_when_there_is_nothing_for_it(light, section):
    defaults = {field.name: getattr(Report(), field.name) for field in dataclasses.fields(Report)}
    without = dataclasses.replace(light, **{name: defaults[name] for name in SECTIONS[section]})
    assert Page(render(without)).sections == [key for key in SECTIONS if key != section]


@pytest.mark.parametrize("section", SECTIONS)
def test_each_section_can_stand_alone(light, section):
    alone = Report(**{name: getattr(light, name) for name in SECTIONS[section]})
    assert Page(render(alone)).sections == [section]


def test_an_empty_report_is_a_page_that_says_what_this_is():
    page = Page(render(Report()))
    assert page.sections == []
    assert any("recognises people by the way they walk" in text for text in page.text)


def test_no_reject_at_all_is_said(light):
    text = " ".join(Page(render(dataclasses.replace(light, rejects=[]))).text)
    assert "Nothing was rejected." in text


def test_the_first_numbers_are_those_of_the_tables(light):
    text = "|".join(Page(render(light)).text)
    for fact in (
        "tracks of people in video|3|",
        "frames in them|90|",
        "rejected, each with a reason|1|",
        "training steps|120|",
        "rank-1 NM, trained, chance 25.0 %|91.5 %|",
    ):
        assert fact in text


def test_of_many_numbers_the_one_that_decides_is_shown_first(light):
    table = {
        "layout": "numbers",
        "views": [],
        "per_view": {},
        "means": {"Bag": 1.0, "CL/mAP": 7.25},
    }
    evaluation = {
        **light.evaluation,
        "rows": {"trained": table},
        "headline": ["CL/mAP"],
        "chance": {"Bag": None, "CL/mAP": None},
    }
    text = "|".join(Page(render(dataclasses.replace(light, evaluation=evaluation))).text)
    assert "mAP CL, trained|7.2 %|" in text


def test_it_says_how_many_tracks_are_shown(light):
    assert "2 of 3 are shown" in " ".join(Page(render(light)).text)
    all_shown = dataclasses.replace(light, all_tracks=[])
    assert "All 2 are shown." in " ".join(Page(render(all_shown)).text)


def test_a_page_appears_whole_or_not_at_all(tmp_path, light, make_row):
    path = tmp_path / "new" / "report.html"
    write_report(path, light)
    before = path.read_bytes()
    broken = make_row() | {"silhouettes": b"no silhouettes of ours at all, none"}
    with pytest.raises(CorruptShard):
        write_report(path, Report(tracks=[broken]))
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


def _chromium() -> str:
    for name in ("chromium", "chromium-browser", "google-chrome"):
        found = shutil.which(name)
        if found:
            return found
    pytest.skip("no chromium on PATH: apt-get install chromium")


@pytest.mark.parametrize("width_px", [1280, 500])
def test_a_browser_shows_the_pictures_and_runs_no_script(tmp_path, light, width_px):
    browser = _chromium()
    page, shot = tmp_path / "report.html", tmp_path / "shot.png"
    write_report(page, light)
    subprocess.run(
        [
            browser,
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-background-networking",
            "--hide-scrollbars",
            f"--user-data-dir={tmp_path / 'profile'}",
            f"--window-size={width_px},3000",
            f"--screenshot={shot}",
            page.as_uri(),
        ],
        check=True,
        capture_output=True,
        timeout=120,
    )
    image = cv2.imread(str(shot))[:, :, ::-1].astype(int)
    assert image.shape[1] == width_px
    # The crops of both strips are magenta; half of a strip is to be scrolled to on a phone.
    magenta = (np.abs(image - (255, 0, 255)).max(axis=2) < 40).mean(axis=1) * width_px
    lines = np.flatnonzero(magenta > 0.8 * width_px * 0.85)
    assert len(lines) > 2 * 50
    # The page itself does not have to be scrolled sideways: its margin is empty.
    assert (image[:, -8:] == image[0, 0]).all()


def test_the_style_sheet_has_no_rule_for_what_is_not_there(light):
    page = render(light)
    styled = set(re.findall(r"\.([a-z]+)(?=[\s,{:.>+])", CSS))
    used = {name for value in Page(page).attributes("class") for name in value.split()}
    assert used == styled


def test_real_people_make_a_small_page(tmp_path: Path, make_row):
    """A strip of twelve noisy crops is the largest picture; ten stay far below 6 MB."""
    noise = np.random.default_rng(0).integers(0, 255, (8, 8, 3), np.uint8)
    crop = cv2.resize(noise, (128, 128), interpolation=cv2.INTER_CUBIC)
    row = make_row() | {"rgb": codec.encode_crops(np.stack([crop] * 30))}
    path = tmp_path / "report.html"
    write_report(path, Report(tracks=[row] * 10))
    assert path.stat().st_size < 3e6
