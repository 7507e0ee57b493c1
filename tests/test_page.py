"""The report page in a real browser."""

from __future__ import annotations

import browser
import fake_jobs
import pytest

pytestmark = pytest.mark.skipif(browser.CHROMIUM is None, reason="Chromium is not installed")

BROKEN = (
    "[...document.images].filter(image => !image.complete || !image.naturalWidth).map(image => image.alt)"
)
WITHOUT_ALT = "[...document.images].filter(image => image.alt.length < 10).length"
TABLE = "document.querySelector('#table1 table')"
COLUMN = f"[...{TABLE}.tBodies[0].rows].map(row => row.cells[3].textContent)"
HEADER = f"[...{TABLE}.tHead.rows].at(-1).cells[3]"


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    return (fake_jobs.report(tmp_path_factory.mktemp("page") / "results") / "report.html").as_uri()


@pytest.fixture(scope="module")
def page(url):  # begun when the report is there, for a browser has a limited time
    with browser.page() as opened:
        yield opened


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [400, 1300])
def test_the_page_is_whole(page, url, width, dark):
    page.open(url, width, dark)
    assert page.value("document.images.length") > 10
    assert page.value(BROKEN) == [] and page.value(WITHOUT_ALT) == 0
    page.value("document.querySelectorAll('details').forEach(part => { part.open = true; })")
    assert page.value("document.documentElement.scrollWidth") <= width
    assert page.value("innerWidth") == width
    ground = page.value("getComputedStyle(document.body).backgroundColor")
    assert (ground == "rgb(255, 255, 255)") != dark
    assert page.errors == []


def test_every_entry_of_the_contents_leads_to_a_section_and_is_marked_there(page, url):
    page.open(url, 1300)
    links = page.value("[...document.querySelectorAll('nav a')].map(link => link.hash)")
    sections = page.value("[...document.querySelectorAll('main section')].map(part => '#' + part.id)")
    assert links == sections and "#table1" in links and len(links) > 8
    page.value("document.documentElement.style.scrollBehavior = 'auto'")
    page.value("document.querySelector('#table3').scrollIntoView()")
    page.value("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
    assert page.value("document.querySelector('nav [aria-current]').hash") == "#table3"


def test_tables_are_sorted_by_a_click(page, url):
    page.open(url, 1300)
    original = page.value(COLUMN)
    numbers = [float(text) for text in original]
    assert len(set(numbers)) > 5
    for order in (sorted(numbers, reverse=True), sorted(numbers), numbers):
        page.value(f"{HEADER}.click()")
        assert [float(text) for text in page.value(COLUMN)] == order
    assert page.value(COLUMN) == original


def test_times_are_sorted_by_their_length(page, url):
    page.open(url, 1300)
    times = ["9 s", "1 min 30 s", "10 s", "2 h 6 min", "59 min 59 s", "-"]
    cells = f"[...{TABLE}.tBodies[0].rows].map(row => row.cells[3])"
    rows = page.value(f"{cells}.length")
    assert rows >= len(times)
    page.value(f"{cells}.forEach((cell, at) => {{ cell.textContent = {times}[at] ?? '-'; }})")
    page.value(f"{HEADER}.click()")
    longest_first = ["2 h 6 min", "59 min 59 s", "1 min 30 s", "10 s", "9 s"]
    assert page.value(COLUMN) == longest_first + ["-"] * (rows - 5)


def test_pictures_are_enlarged_by_a_click(page, url):
    page.open(url, 400)
    page.value("document.querySelector('#table1 .enlarge').click()")
    small = page.value("document.querySelector('#table1 img').width")
    assert page.value("document.querySelector('dialog').open")
    assert page.value("document.querySelector('dialog img').width") > 2 * small
    assert page.value("document.documentElement.scrollWidth") == 400
    page.value("document.querySelector('dialog img').click()")
    assert not page.value("document.querySelector('dialog').open")


def test_a_broken_page_is_noticed(page, tmp_path):
    """The browser would tell."""
    file = tmp_path / "broken.html"
    file.write_text(
        "<!doctype html><meta name=viewport content='width=device-width'><img alt='nothing' src='nothing.png'>"
        "<body style='margin: 0'><div style='width: 900px'>wide</div><script>nowhere()</script>"
    )
    page.open(file.as_uri(), 400)
    assert page.value(BROKEN) == ["nothing"] and page.value("document.documentElement.scrollWidth") == 900
    assert "nowhere" in str(page.errors)
