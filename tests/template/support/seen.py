"""A headless Chromium, and what a page in it did: for test_browser.py and test_page.py."""
import shutil
from contextlib import contextmanager
from urllib.parse import urlparse

from playwright.sync_api import sync_playwright

QUIET = [
    "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--no-first-run", "--no-default-browser-check",
    "--disable-features=OptimizationHints,MediaRouter,Translate"]
DESKTOP, PHONE = {"width": 1280, "height": 900}, {"width": 390, "height": 844}


@contextmanager
def chromium():
    """The system's Chromium, as long as the block lasts."""
    program = shutil.which("chromium") or shutil.which("chromium-browser")
    assert program, "these tests need Chromium; install it with: sudo apt-get install -y chromium"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=QUIET)
        yield browser
        browser.close()


class Seen:
    """A page, and every other host it asked for something."""
    def __init__(self, browser, host: str = "", **options):
        self.page, self.host = browser.new_page(**{"viewport": DESKTOP} | options), host
        self.elsewhere, self.errors = [], []
        self.page.on("request", self.note)
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))

    def note(self, request):
        url = urlparse(request.url)
        if url.scheme not in ("file", "data", "blob", "about") and url.netloc != self.host:
            self.elsewhere.append(request.url)

    def sideways(self) -> dict:
        """How many pixels the page scrolls sideways on a desktop and on a phone."""
        found = {}
        for name, size in (("desktop", DESKTOP), ("phone", PHONE)):
            self.page.set_viewport_size(size)
            found[name] = self.page.evaluate(
                "document.documentElement.scrollWidth - document.documentElement.clientWidth")
        self.page.set_viewport_size(DESKTOP)
        return found
