"""A real browser, in which pages are opened as a reader would."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from playwright.sync_api import Browser, Page, sync_playwright

CHROMIUM = "/usr/bin/chromium"
_COUNT_BROKEN = "[...document.images].filter(i => !i.complete || !i.naturalWidth).length"
_UNDRAWN = """[...document.querySelectorAll('.plot')].filter(place => {
  const canvas = place.querySelector('.bk-Figure')?.shadowRoot.querySelector('.bk-Canvas');
  const picture = canvas?.shadowRoot.querySelector('canvas');
  if (!picture || !picture.width) return true;
  const pixels = picture.getContext('2d').getImageData(0, 0, picture.width, picture.height).data;
  return pixels.every(value => value === 0);
}).length"""


@contextlib.contextmanager
def chromium() -> Iterator[Browser]:
    """Debian's Chromium, without a window."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@contextlib.contextmanager
def opened(
    browser: Browser, page: Path, width: int, scheme: str = "light"
) -> Iterator[tuple[Page, list[str]]]:
    """Open a file, scroll through all of it, and collect what went wrong meanwhile.

    Args:
        width: of the window, in pixels.
        scheme: light or dark.
    """
    context = browser.new_context(
        viewport={"width": width, "height": 900},
        color_scheme=scheme,  # type: ignore[arg-type]
    )
    tab, wrong = context.new_page(), []
    tab.on("console", lambda m: wrong.append(m.text) if m.type in ("error", "warning") else None)
    tab.on("pageerror", lambda error: wrong.append(str(error)))
    tab.on(
        "request", lambda r: None if r.url.startswith(("file:", "data:")) else wrong.append(r.url)
    )
    tab.goto(page.as_uri())
    height = tab.evaluate("document.documentElement.scrollHeight")
    for top in range(0, height, 600):
        tab.evaluate(f"scrollTo(0, {top})")
        tab.wait_for_timeout(30)
    tab.wait_for_function(f"{_UNDRAWN} === 0", timeout=20_000)
    yield tab, wrong
    context.close()


def broken_pictures(tab: Page) -> int:
    return int(tab.evaluate(_COUNT_BROKEN))


def is_wider_than_its_window(tab: Page) -> bool:
    return bool(tab.evaluate("document.documentElement.scrollWidth > innerWidth"))
