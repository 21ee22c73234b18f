"""What people see, in a headless Chromium: the site of a run, the API's pages, and JupyterLab."""
import re
import time
from pathlib import Path
from urllib.parse import unquote, urldefrag, urlparse

import pytest
from helpers import MLOPS, Started, copy_project, environment, free_port
from lab import make_lab
from playwright.sync_api import TimeoutError, expect
from seen import Seen, chromium

from mlops_lifecycle.core.foundation.workspace import Workspace


@pytest.fixture(scope="module")
def browser():
    with chromium() as browser: yield browser


def test_every_page_of_the_site_holds_together(browser, lived):
    seen, todo, wrong = Seen(browser), [lived.site.as_uri()], []
    anchors, links = {}, []
    while todo:
        url = todo.pop()
        if url in anchors: continue
        seen.page.goto(url)
        names = "all => all.flatMap(e => [e.id, e.getAttribute('name')]).filter(Boolean)"
        anchors[url] = set(seen.page.eval_on_selector_all("[id], a[name]", names))
        wide = {name: pixels for name, pixels in seen.sideways().items() if pixels > 0}
        wrong += [f"{url} scrolls {pixels} pixels sideways on a {name}" for name, pixels in wide.items()]
        targets = "all => all.map(e => new URL(e.getAttribute('href'), document.baseURI).href)"
        for link in sorted(set(seen.page.eval_on_selector_all("a[href]", targets))):
            target, fragment = urldefrag(link)
            if urlparse(target).scheme != "file": continue  # what lies outside is only named
            path = Path(unquote(urlparse(target).path))
            links.append((url, target, unquote(fragment)))
            if not path.is_file(): wrong.append(f"{url} links to {link}, which is not there")
            elif path.suffix == ".html" and target not in anchors: todo.append(target)
    lost = [link for link in links if link[2] and link[2] not in anchors.get(link[1], {link[2]})]
    wrong += [f"{url} links to {target}#{fragment}, which has no such place" for url, target, fragment in lost]
    assert not wrong, "\n".join(wrong)
    assert not seen.elsewhere and not seen.errors
    assert len(anchors) >= 18


def test_the_map_shows_each_stage_and_leads_to_it(browser, lived):
    seen = Seen(browser)
    seen.page.goto(lived.site.as_uri())
    for stage in lived.run["stages"]:
        name = stage["notebook"].removesuffix(".ipynb")
        link = seen.page.locator(f'svg a[href*="{name}"]').first
        assert link.count() or seen.page.locator(f'svg a[*|href*="{name}"]').count(), f"the map does not link to {name}"
    assert not seen.elsewhere


def test_search_works_from_the_file_system(browser, lived):
    seen = Seen(browser)
    seen.page.goto((lived.site.parent / lived.run["run"] / "search.html").as_uri() + "?q=threshold")
    expect(seen.page.locator("#search-results li").first).to_be_visible(timeout=20_000)
    assert not seen.elsewhere and not seen.errors


def test_the_pages_of_the_api(browser, lived, tmp_path):
    port = free_port()
    settings = lived.copy(tmp_path / "workspace")
    command = [*MLOPS, "serve", "--port", port]
    with Started(command, f"http://127.0.0.1:{port}/v2/health/live", tmp_path / "serve.log", env=environment(**settings)):
        seen = Seen(browser, f"127.0.0.1:{port}")
        seen.page.goto(f"http://127.0.0.1:{port}/")
        assert not any(seen.sideways().values())
        seen.page.click("form button")
        expect(seen.page.locator("main")).to_contain_text("acts from")
        seen.page.click("#reactions button >> nth=0")
        expect(seen.page.locator("#noted")).to_contain_text("Noted")
        seen.page.goto(f"http://127.0.0.1:{port}/docs")
        expect(seen.page.locator("#swagger-ui")).to_contain_text("/v1/predict", timeout=20_000)
        assert not seen.elsewhere and not seen.errors


class Lab:
    """JupyterLab as a person sees it."""
    def __init__(self, page, url): self.page, self.url = page, url

    def open(self, notebook: str):
        self.page.goto(f"{self.url}/lab/tree/nbs/{notebook}.ipynb?reset")
        self.page.wait_for_selector(".jp-NotebookPanel:not(.lm-mod-hidden) .jp-CodeCell", timeout=60_000)
        expect(self.page.locator(".jp-Notebook-ExecutionIndicator:visible")).to_have_attribute("data-status", "idle", timeout=60_000)

    def append(self, cell: re.Pattern, line: str):
        """Add a line at the end of the cell that holds a text."""
        editor = self.page.locator(".jp-CodeCell", has_text=cell).first.locator(".cm-content")
        editor.scroll_into_view_if_needed(); editor.click()
        self.page.keyboard.press("Control+End"); self.page.keyboard.insert_text("\n" + line)

    def save(self, module: Path, line: str):
        """Save, and wait for a line of the notebook in its module."""
        self.page.keyboard.press("Control+s")
        end = time.monotonic() + 30
        while line not in module.read_text():
            assert time.monotonic() < end, f"{module.name} was not exported"
            self.page.wait_for_timeout(100)

    def run_all(self, verdict: str):
        """Run the notebook from top to bottom, and see its verdict."""
        begun = self.page.locator(".jp-InputArea-prompt", has_text=re.compile(r"\[(\*|\d+)\]")).first
        # idle is also what a kernel is called that JupyterLab has not reached yet; the cells are then dropped silently
        for patience in (30_000, 60_000):
            self.page.click(".lm-MenuBar-itemLabel:text-is('Run')")
            self.page.click(".lm-Menu-itemLabel:text-is('Run All Cells')")
            try: begun.wait_for(timeout=patience); break
            except TimeoutError: continue
        try: expect(self.page.locator(".jp-OutputArea-output", has_text=verdict).first).to_be_visible(timeout=180_000)
        except AssertionError as error:
            shown = self.page.locator(".jp-Notebook").first.inner_text()
            outputs = "\n".join(self.page.locator(".jp-OutputArea-output").all_inner_texts())[-6000:]
            raise AssertionError(f"JupyterLab shows:\n{shown}\n{outputs}") from error
        self.page.keyboard.press("Control+s")


def test_an_edit_in_jupyterlab_takes_effect(browser, lived, tmp_path):
    """Edit a cell of one's own, save, run the next stage: nobody exports in between."""
    project, port = copy_project(tmp_path / "project"), free_port()
    settings, module = lived.copy(tmp_path / "workspace"), project / "mlops_lifecycle" / "transform.py"
    with make_lab(project, port, tmp_path, **settings):
        seen = Seen(browser, f"127.0.0.1:{port}")
        lab = Lab(seen.page, f"http://127.0.0.1:{port}")
        lab.open("04_transform")
        more = 'FEATURES = FeatureSet((*FEATURES.features, Feature("flight")), FEATURES.lookups)'
        lab.append(re.compile(r"FEATURES = FeatureSet\("), more)
        assert more not in module.read_text()
        lab.save(module, more)
        lab.run_all("04_transform passed")
        workspace = Workspace(settings["MLOPS_WORKSPACE"])
        assert "flight" in [f["name"] for f in workspace.load("features")["features"]]
        lab.open("07_train")
        lab.run_all("07_train passed")
        assert "flight" in workspace.load("candidates")["candidates"][0]["encoder"]["names"]
        assert not seen.page.locator(".jp-OutputArea-output", has_text="StaleModuleWarning").count()
        assert not [url for url in seen.elsewhere if not re.match(r"wss?://127", url)]
