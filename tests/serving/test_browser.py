"""The page in a headless Chromium, at the width of a phone and of a desktop."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from support import browser as chromium
from support.browser import Browser

pytestmark = pytest.mark.skipif(chromium.FOUND is None, reason="there is no Chromium or Chrome")

PAGES = ("", "?user=u39&topk=5", "?item=i03&item=i01&topk=5", "?q=lamp", "?user=nobody")
# The least contrast of a text to what is behind it, as WCAG 2 defines it.
CONTRAST = """
(() => {
  const parts = text => text.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => [r, g, b].map(v => v / 255)
    .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const behind = node => {
    for (; node; node = node.parentElement) {
      const colour = parts(getComputedStyle(node).backgroundColor);
      if (colour.length === 3 || colour[3] === 1) return colour;
    }
    return [255, 255, 255];
  };
  const own = [...document.querySelectorAll("body *")].filter(node => node.checkVisibility() &&
    [...node.childNodes].some(child => child.nodeType === 3 && child.data.trim()));
  return Math.min(...own.map(node => {
    const two = [light(parts(getComputedStyle(node).color)), light(behind(node))];
    return (Math.max(...two) + 0.05) / (Math.min(...two) + 0.05);
  }));
})()
"""
# Controls that are smaller than a finger.
SMALL = """
[...document.querySelectorAll("button, a.button, input:not([type=hidden]), select, summary")]
  .filter(node => node.checkVisibility() && node.getBoundingClientRect().height < 40).length
"""


@pytest.fixture(scope="module")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with chromium.browser(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


@pytest.mark.parametrize("width", [390, 1280])
def test_pages_fit_and_can_be_read(tab: Browser, url: str, width: int) -> None:
    for dark in (False, True):
        tab.size(width, dark=dark)
        for query in PAGES:
            tab.open(url + query)
            assert tab.run("document.documentElement.scrollWidth") <= width, query
            assert tab.run(CONTRAST) >= 4.5, (query, dark)
            assert tab.run(SMALL) == 0, query
    tab.open(f"{url}?user=u39")
    tops = tab.run("[...document.querySelectorAll('article')].map(a => a.offsetTop)")
    assert len(tops) == 3 and len({*tops}) == (3 if width == 390 else 1)  # below, or side by side
    assert {request.split("/")[2] for request in tab.requested()} == {url.split("/")[2]}
    errors = [one for one in tab.complaints() if not str(one.get("url")).endswith("=nobody")]
    assert errors == []


@pytest.mark.parametrize("width", [390, 1280])
def test_a_history_is_composed_by_keyboard(tab: Browser, url: str, width: int) -> None:
    tab.size(width)
    tab.open(url)
    tab.run("document.getElementById('search').focus()")
    tab.type("lamp 1")
    tab.wait("document.getElementById('search').getAttribute('aria-expanded') === 'true'")
    tab.press("ArrowDown")
    chosen = "document.getElementById('search').getAttribute('aria-activedescendant')"
    assert tab.run(chosen) == "search-suggestions-0"
    assert tab.run(f"document.getElementById({chosen}).textContent.startsWith('Lamp No. 1')")
    seen = len(tab.events)
    tab.press("Enter")
    tab.loaded(seen)
    assert tab.run("location.search") == "?topk=10&item=i01"
    assert tab.run("document.querySelectorAll('article')[0].querySelectorAll('li').length") == 10
    picture = "document.querySelector('img').naturalWidth"
    assert tab.wait(picture) == 1  # its picture, of one pixel
    # The nasty title stays a text.
    tab.open(f"{url}?item=i03")
    assert "alert('&')" in tab.run("document.querySelector('.title').textContent")
    seen = len(tab.events)
    tab.run("document.querySelector('a.quiet').click()")
    tab.loaded(seen)
    assert tab.run("location.search") == "?topk=10"


def test_a_user_is_found_and_options_apply_at_once(tab: Browser, url: str) -> None:
    tab.size(1280)
    tab.open(url)
    tab.run("document.getElementById('user').focus()")
    tab.type("u3")
    tab.wait("document.querySelectorAll('#user-suggestions li').length === 8")
    tab.press("Escape")
    assert tab.run("document.getElementById('user-suggestions').hidden")
    tab.type("9")
    tab.wait("document.querySelectorAll('#user-suggestions li').length === 1")
    seen = len(tab.events)
    tab.run("document.querySelector('#user-suggestions li').click()")
    tab.loaded(seen)
    assert "user=u39" in tab.run("location.search")
    seen = len(tab.events)
    tab.run(
        "{ const box = document.getElementById('topk'); box.value = 3;"
        " box.dispatchEvent(new Event('change', {bubbles: true})); }"
    )
    tab.loaded(seen)
    assert tab.run("document.querySelectorAll('article')[2].querySelectorAll('li').length") == 3
