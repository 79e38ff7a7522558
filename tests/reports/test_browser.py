"""The page in a real browser: quiet, closed, usable by mouse, keyboard and screen reader."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fake_runs import write_run
from rich_fake import rich_comparison

from genzoo_reports.report import write_difference, write_report

playwright_api = pytest.importorskip(
    "playwright.sync_api", reason="the browser tests need playwright: make test installs it"
)
NAMES = ("chromium", "chromium-browser", "google-chrome-stable", "google-chrome")
FLAGS = (
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
)
CHROMIUM = os.environ.get("GENZOO_CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)
pytestmark = pytest.mark.skipif(
    CHROMIUM is None,
    reason="no Chromium: install it (Debian: apt install chromium) or name one in GENZOO_CHROMIUM",
)
MORE = ((390, "light"), (1280, "dark"), (2560, "light"), (2560, "dark"))


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    # Chromium refuses its own sandbox to root; everything it sees here is ours.
    flags = [*FLAGS, "--no-sandbox"] if hasattr(os, "geteuid") and os.geteuid() == 0 else FLAGS
    with playwright_api.sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=CHROMIUM, args=list(flags))
        yield found
        found.close()


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("rich")
    return write_report(rich_comparison(root / "comparison"), root / "report.html")


@pytest.fixture
def page(browser: Any, report: Path) -> Iterator[Any]:
    opened = Opened(browser, report)
    yield opened.page
    opened.close()


class Opened:
    """A page that remembers what it said and asked for."""

    def __init__(self, browser: Any, path: Path, **how: Any) -> None:
        self.context = browser.new_context(**{"viewport": {"width": 1280, "height": 900}, **how})
        self.page = self.context.new_page()
        self.said: list[str] = []
        self.asked: list[str] = []
        self.page.on("console", lambda message: self.said.append(message.text))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.on("dialog", lambda dialog: (self.said.append("dialog"), dialog.dismiss()))
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.goto(path.as_uri())

    def close(self) -> None:
        own = self.page.url.partition("#")[0]
        asked = [url for url in self.asked if url != own and not url.startswith("data:")]
        assert self.said == [], "nothing on the console"
        assert asked == [], "nothing from anywhere else"
        self.context.close()


@pytest.mark.parametrize(
    ("width", "scheme"),
    [
        (390, "dark"),
        (1280, "light"),
        *(pytest.param(w, s, marks=pytest.mark.slow) for w, s in MORE),
    ],
)
def test_nothing_is_cut_and_axe_finds_nothing(
    browser: Any, report: Path, width: int, scheme: str
) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright")
    opened = Opened(browser, report, viewport={"width": width, "height": 900}, color_scheme=scheme)
    page = opened.page
    assert page.evaluate("document.documentElement.scrollWidth") == width, "scrolls sideways"
    assert page.evaluate(OVERFLOWING) == []
    page.evaluate("document.querySelectorAll('details').forEach((fold) => { fold.open = true; })")
    tags = {"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "best-practice"]}
    found = axe.Axe().run(page, options=tags).response["violations"]
    told = [(v["id"], v["nodes"][0]["html"][:120], v["nodes"][0]["failureSummary"]) for v in found]
    assert told == []
    opened.close()


# Elements whose content is wider than they are, but for those that scroll on purpose.
OVERFLOWING = """() => [...document.querySelectorAll("body *")]
  .filter((e) => !e.closest(".scroll, pre, nav, dialog, svg, .unseen, .scale .label"))
  .filter((e) => e.scrollWidth > e.clientWidth + 1 && getComputedStyle(e).display !== "inline")
  .map((e) => e.outerHTML.slice(0, 80))"""


def order(page: Any) -> list[str]:
    rows = page.locator("table.sortable tbody.sorted").first.locator("tr th .name")
    return list(rows.all_inner_texts())


def test_sorting_by_mouse_and_keyboard(page: Any) -> None:
    head = page.get_by_role("columnheader", name="Fréchet distance")
    button = head.get_by_role("button")
    button.click()
    assert order(page) == ["diffusion", "gan", "flow", "vae"], "best first"
    assert head.get_attribute("aria-sort") == "ascending"
    button.focus()
    page.keyboard.press("Enter")
    assert order(page) == ["vae", "flow", "gan", "diffusion"]
    assert head.get_attribute("aria-sort") == "descending"
    page.get_by_role("columnheader", name="bits/dim").get_by_role("button").click()
    assert order(page)[-1] == "gan", "what is missing comes last"
    assert head.get_attribute("aria-sort") is None
    last = page.locator("table.sortable tbody").nth(1).inner_text()
    assert "real vs real" in last, "the yardsticks stay where they are"


def test_the_slider_moves_all_films(page: Any) -> None:
    slider = page.get_by_role("slider", name="Share of the budget")
    assert slider.get_attribute("aria-valuetext") == "100 %"
    slider.focus()
    page.keyboard.press("Home")
    assert slider.get_attribute("aria-valuetext") == "3 %"
    assert page.locator("output").inner_text() == "3 %"
    shown = page.locator(".film .frame:visible")
    assert shown.count() == 4
    assert all("3% of the budget" in text for text in shown.all_inner_texts())
    page.keyboard.press("ArrowRight")
    assert all("12% of the budget" in text for text in shown.all_inner_texts())
    box = slider.bounding_box()
    slider.click(position={"x": box["width"] - 3, "y": box["height"] / 2})
    assert all("100% of the budget" in text for text in shown.all_inner_texts())


def test_pictures_enlarge_by_mouse_and_keyboard(page: Any) -> None:
    first = page.locator(".pictures button.zoom").first
    small = first.bounding_box()["width"]
    first.click()
    dialog = page.get_by_role("dialog", name="Enlarged picture")
    assert dialog.is_visible()
    large = dialog.get_by_role("img")
    assert large.bounding_box()["width"] > small
    assert "samples of gan" in large.get_attribute("alt")
    page.keyboard.press("ArrowRight")
    assert "samples of vae" in large.get_attribute("alt")
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("Escape")
    assert not dialog.is_visible()
    focused = page.evaluate("document.activeElement.querySelector('img').alt")
    assert "samples of gan" in focused, "the focus comes back"
    page.keyboard.press("Enter")
    assert dialog.is_visible()
    dialog.get_by_role("button", name="Close").click()
    assert not dialog.is_visible()


def test_the_keyboard_reaches_everything(page: Any) -> None:
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the verdict"
    reached = set()
    for _ in range(220):
        page.keyboard.press("Tab")
        reached.add(
            page.evaluate(
                "(document.activeElement.id || document.activeElement.className"
                " || document.activeElement.tagName).toString()"
            )
        )
    assert {"moment", "zoom", "scroll", "SUMMARY", "A", "BUTTON"} <= reached


def test_every_figure_has_its_numbers_beside_it(page: Any) -> None:
    figures = page.locator("figure:has(svg.figure)")
    assert figures.count() >= 12
    for index in range(figures.count()):
        figure = figures.nth(index)
        figure.locator("summary").click()
        assert figure.locator("table tbody tr").first.is_visible()


def test_paper_shows_all_and_hides_what_can_only_be_pressed(browser: Any, report: Path) -> None:
    opened = Opened(browser, report, viewport={"width": 700, "height": 1000})
    page = opened.page
    page.emulate_media(media="print")
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert not page.locator("nav").is_visible() and not page.locator("#moment").is_visible()
    assert page.get_by_text("What the metrics mean").is_visible()
    assert page.locator("dl.terms").is_visible(), "nothing stays folded"
    assert page.evaluate("document.documentElement.scrollWidth") <= 700
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert background == "rgb(255, 255, 255)"
    opened.close()


def test_hostile_runs_do_nothing(browser: Any, tmp_path: Path) -> None:
    evil = '"><img src=x onerror=alert(1)><script>alert(2)</script>{{7*7}}</style></svg>&#x3c;'
    runs = [
        write_run(tmp_path / str(k), evil, k, {"fd": 0.1 + k, evil: 3}, settings={evil: evil},
                  data=evil, config={"command": [evil], "versions": {evil: evil}})
        for k in range(2)
    ]  # fmt: skip
    write_run(
        tmp_path / "f", evil, 9, state="failed", reason=evil, settings={evil: evil}, data=evil
    )
    opened = Opened(browser, write_report([*runs, tmp_path / "f"], tmp_path / "r.html", title=evil))
    opened.page.wait_for_timeout(100)
    assert opened.page.locator("script").count() == 1
    assert opened.page.get_by_role("heading", level=1).inner_text().startswith('"><img src=x')
    assert "49" not in opened.page.get_by_role("heading", level=1).inner_text()
    opened.close()


def test_the_page_of_a_difference_is_as_good(browser: Any, report: Path, tmp_path: Path) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright")
    old = report.parent / "comparison"
    _, page = write_difference(old, old, tmp_path / "difference.html")
    assert page is not None
    opened = Opened(browser, page, viewport={"width": 390, "height": 900})
    assert axe.Axe().run(opened.page).response["violations"] == []
    assert opened.page.evaluate("document.documentElement.scrollWidth") == 390
    opened.close()
