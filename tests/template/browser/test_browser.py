"""What people see, in a headless Chromium: the site of a run, the API's pages, and JupyterLab."""
import os
import re
import time
from html import unescape
from pathlib import Path
from urllib.parse import unquote, urldefrag, urlparse

import pytest
from axe_playwright_python.sync_playwright import Axe
from helpers import MLOPS, Started, copy_project, environment, free_port
from lab import make_lab
from playwright.sync_api import TimeoutError, expect
from seen import Seen, chromium

from mlops_lifecycle.core.foundation.workspace import Workspace
from mlops_lifecycle.core.models.price_table import hundred, own_prices
from mlops_lifecycle.core.models.verdict_words import money, way
from mlops_lifecycle.core.reports.at_a_glance import changes, ledger_of
from mlops_lifecycle.core.reports.site import history, standings


@pytest.fixture(scope="module")
def browser():
    with chromium() as browser: yield browser


def test_every_link_of_the_site_leads_somewhere(lived):
    """Read as text, which is quicker than a browser; code on a page has no tags."""
    todo, wrong, anchors, links = [lived.site], [], {}, []
    while todo:
        if (page := todo.pop()) in anchors: continue
        text = page.read_text()
        anchors[page] = set(map(unescape, re.findall(r"""<[^>]*?\s(?:id|name)=["']([^"']+)""", text)))
        for link in sorted(set(map(unescape, re.findall(r"""<a\b[^>]*?\shref=["']([^"']*)""", text)))):
            address, fragment = urldefrag(link)
            if urlparse(address).scheme: continue  # what lies outside is only named
            target = Path(os.path.normpath(page.parent / unquote(address))) if address else page
            links.append((page, target, unquote(fragment)))
            if not target.is_file(): wrong.append(f"{page} links to {link}, which is not there")
            elif target.suffix == ".html": todo.append(target)
    lost = [link for link in links if link[2] and link[2] not in anchors.get(link[1], {link[2]})]
    wrong += [f"{page} links to {target}#{fragment}, which has no such place" for page, target, fragment in lost]
    assert not wrong, "\n".join(wrong)
    assert len(anchors) > 150 and len(links) > 3_000


def test_no_page_is_too_wide_fails_or_asks_elsewhere(browser, lived):
    """Every page of the life cycle, and of the machinery the largest of each room."""
    site = lived.site.parent / lived.run["run"]
    pages = {page.relative_to(site): page for page in site.rglob("*.html") if "_static" not in page.parts}
    rooms = {name.parent: name for name in sorted(pages, key=lambda name: pages[name].stat().st_size) if "core" in name.parts}
    chosen = [lived.site, *(page for name, page in pages.items() if name.parent not in rooms or rooms[name.parent] == name)]
    seen, wrong = Seen(browser), []
    for page in chosen:
        seen.page.goto(page.as_uri())
        wide = {name: pixels for name, pixels in seen.sideways().items() if pixels > 0}
        wrong += [f"{page} scrolls {pixels} pixels sideways on a {name}" for name, pixels in wide.items()]
    assert not wrong, "\n".join(wrong)
    assert not seen.elsewhere and not seen.errors
    assert len(chosen) > 35


def test_the_map_shows_each_stage_and_leads_to_it(browser, lived):
    seen = Seen(browser)
    seen.page.goto(lived.site.as_uri())
    for stage in lived.run["stages"]:
        name = stage["notebook"].removesuffix(".ipynb")
        link = seen.page.locator(f'svg a[href*="{name}"]').first
        assert link.count() or seen.page.locator(f'svg a[*|href*="{name}"]').count(), f"the map does not link to {name}"
    assert not seen.elsewhere


class Reader:
    """Someone who did not write it, on the first page and one click away from it."""
    def __init__(self, browser, lived):
        self.seen, self.workspace, self.folder = Seen(browser), Workspace(lived.workspace), lived.site.parent / lived.run["run"]
        self.page, self.lived = self.seen.page, lived
        names = "plan", "problem", "verdict", "monitoring"
        self.plan, self.problem, self.verdict, self.monitoring = map(self.workspace.load, names)
        self.now, _ = ledger_of(self.workspace)
        self.home()

    def home(self): self.page.goto(self.lived.site.as_uri())

    def text(self, where: str) -> str:
        expect(self.page.locator(where).first).to_be_visible()
        return " ".join(self.page.locator(where).first.inner_text().split())

    def click(self, name: str) -> str:
        self.home()
        self.page.get_by_role("link", name=name).first.click()
        return self.text("article")


@pytest.fixture(scope="module")
def reader(browser, lived): return Reader(browser, lived)


def test_the_first_page_says_what_serves(reader):
    reader.home()
    assert reader.text("#serves") == reader.now.stable
    assert reader.now.releases[reader.now.stable].last.by in reader.text(".glance")


def test_the_first_page_says_whether_it_beats_the_rule_and_by_how_much_a_month(reader):
    reader.home()
    verdict, said = reader.verdict, reader.text("#saves")
    month = verdict["rows"] / verdict["months"]
    low, high = (money(gain * month) for gain in verdict["gain"])
    assert f"{money(abs(verdict['saving']) * month)} cost units a month ({low} to {high}" in said
    assert way(verdict["baseline"]["name"], reader.problem["action"]) in said


def test_the_first_page_says_how_many_of_100_are_bothered_for_nothing(reader):
    reader.home()
    own = own_prices(reader.verdict["prices"])
    right, needless, missed, _ = hundred(own["model"])
    drawn = reader.page.locator("#hundred .hundred").first
    assert drawn.locator("[data-count=needless]").inner_text() == str(needless)
    shapes = ("circle.right", "circle.needless", "path.missed")
    assert [drawn.locator(f"svg {shape}").count() for shape in shapes] == [right, needless, missed]
    assert f"Of 100 actions {round(100 * own['model'][1] / sum(own['model'][:2]))} are needless" in reader.text("#burden")


def test_the_first_page_says_what_is_not_proven(reader):
    reader.home()
    missing = [one for s in standings(reader.workspace, history(reader.workspace)).values() for one in s.get("not_proven", ())]
    lines = [" ".join(line.split()) for line in reader.page.locator("#unproven li").all_inner_texts()]
    assert missing and len(lines) == len(missing)
    for one in missing: assert any(" ".join(one["what"].split()) in line for line in lines)
    assert "passed, not proven" in reader.text("table.stages")


def test_the_first_page_says_what_changed_since_the_last_run(reader):
    reader.home()
    changed = changes(history(reader.workspace))
    assert reader.page.locator("#changed li").count() == len(changed)
    if changed: assert " ".join(changed[0][1].split()) in reader.text("#changed")


def test_one_click_says_whom_it_harms(reader):
    said = reader.click("The model card")
    harm = next(one["answer"] for one in reader.plan["ethics"] if "harmed" in one["question"])
    assert harm in said
    for group in reader.verdict["fairness"][0]["groups"]: assert group in reader.text("#fairness")


def test_the_first_page_says_what_the_monitor_wants(reader):
    reader.home()
    assert "The monitor " in reader.text("#words") and (reader.monitoring["action"] == "nothing" or reader.monitoring["action"] in
                                                        reader.text("table.stages"))


def test_the_first_page_says_what_a_missed_case_costs(reader):
    reader.home()
    assert f"A missed case costs {reader.verdict['costs']['missed']:g} cost units" in reader.text("#saves")


def test_one_click_says_where_the_data_came_from(reader):
    said = reader.click("02 collect")
    found = reader.page.locator("h2", has_text="What this run found")
    assert found.count() == 1 and said.index("What this run found") < said.index("How it works")
    tables = {name.removeprefix("bronze.") for name in reader.workspace.published()["names"] if name.startswith("bronze.")}
    assert all(table in said for table in tables)


def test_the_first_page_says_who_approved(reader):
    reader.home()
    assert reader.text("#approved").startswith(reader.now.releases[reader.now.stable].approval.by)


def test_one_click_shows_all_runs(reader):
    said = reader.click("History")
    assert reader.page.locator("table.history tbody tr").count() == len(history(reader.workspace))
    assert f"{reader.verdict['cost']:.3g}" in reader.text("table.history") and reader.lived.run["run"] in said
    assert reader.page.locator(".pictures figure svg").count() == 5


def shown_prices(page) -> dict:
    names = "threshold", "costs", "without", "saves", "verdict"
    says = {name: page.locator(f"#prices [data-says={name}]").inner_text() for name in names}
    counts = [int(text) for text in page.locator("#prices [data-hundred=model] [data-count]").all_inner_texts()]
    return says | {"model": counts}


def expected_prices(reader, miss: int, needless: int) -> dict:
    """The same in Python, for so many steps of the two prices."""
    verdict, table = reader.verdict, reader.verdict["prices"]
    row, month = table["rows"][2 * table["reach"] + miss - needless], verdict["rows"] / verdict["months"]
    missed, acted = verdict["costs"]["missed"] * table["step"] ** miss, verdict["costs"]["needless"] * table["step"] ** needless
    cost = lambda counts: f"{money((counts[2] * missed + counts[1] * acted) / sum(counts) * month)} cost units"
    low, middle, high = (money(saved * acted * month) for saved in row["saves"])
    said = "Without a model it is cheaper: " + way(row["cheapest"], reader.problem["action"]) + "."
    if row["saves"][2] >= 0: said = "The model is cheaper." if row["saves"][0] > 0 else "Not told apart: the interval holds zero."
    return {"threshold": f"{row['threshold']:.3f}", "costs": cost(row["model"]), "without": cost(row["ways"][row["cheapest"]]),
            "saves": f"{middle} cost units ({low} to {high})", "verdict": said, "model": hundred(row["model"])}


def test_prices_can_be_moved_by_keyboard_and_say_what_python_computes(reader, browser, lived):
    for size in ({"width": 1280, "height": 900}, {"width": 390, "height": 844}):
        seen = Seen(browser, viewport=size)
        seen.page.goto((reader.folder / "card.html").as_uri())
        assert shown_prices(seen.page) == expected_prices(reader, 0, 0)
        seen.page.focus("#price-miss")
        for _ in range(6): seen.page.keyboard.press("ArrowLeft")
        seen.page.focus("#price-needless")
        for _ in range(8): seen.page.keyboard.press("ArrowRight")
        assert shown_prices(seen.page) == expected_prices(reader, -6, 8)
        seen.page.click("#price-reset")
        assert shown_prices(seen.page) == expected_prices(reader, 0, 0)
        seen.page.focus("#price-miss")
        seen.page.keyboard.press("End")
        assert shown_prices(seen.page) == expected_prices(reader, reader.verdict["prices"]["reach"], 0)
        assert not seen.elsewhere and not seen.errors
    k = 5  # [privacy] k
    for row in reader.verdict["prices"]["rows"]:
        assert all(count % k == 0 for counts in (row["model"], *row["ways"].values()) for count in counts)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_no_violation(reader, browser, scheme):
    seen, rules = Seen(browser, color_scheme=scheme), {"runOnly": ["color-contrast"]} if scheme == "dark" else {}
    for page in ("index", "03_curate", "08_evaluate", "card"):
        seen.page.goto((reader.folder / f"{page}.html").as_uri())
        found = Axe().run(seen.page, options=rules).response["violations"]
        assert not found, f"{page}: " + "; ".join(f"{one['id']}: {one['nodes'][0]['html'][:200]}" for one in found)


def test_what_is_read_in_the_dark_is_printed_in_the_light(browser, lived):
    seen = Seen(browser, color_scheme="dark")
    seen.page.goto(lived.site.as_uri())
    theme = "document.documentElement.dataset.theme"
    seen.page.evaluate(f"window.addEventListener('beforeprint', () => {{ window.printed = {theme} }})")
    seen.page.pdf()
    assert (seen.page.evaluate("window.printed"), seen.page.evaluate(theme)) == ("light", "dark")


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


def test_make_lab_opens_the_tutorial_and_the_launcher_leads_to_it(browser, tmp_path):
    project, port = copy_project(tmp_path / "project"), free_port()
    with make_lab(project, port, tmp_path):
        seen = Seen(browser, f"127.0.0.1:{port}")
        page, home = seen.page, f"http://127.0.0.1:{port}/"
        def launch(card: str, title: str):
            page.keyboard.press("Control+Shift+L")
            page.locator(".jp-LauncherCard:visible", has_text=card).click(timeout=60_000)
            expect(page.locator(".jp-RenderedMarkdown h1:visible", has_text=title)).to_be_visible(timeout=60_000)
        page.goto(home)
        expect(page.locator(".jp-RenderedMarkdown h1:visible", has_text="Tutorial")).to_be_visible(timeout=60_000)
        launch("00 Plan", "Plan")
        launch("Tutorial", "Tutorial")
        assert page.request.get(f"{home}proxy/{port}/api").status == 404  # a proxy that comes along is off
        assert not seen.errors and not [url for url in seen.elsewhere if not re.match(r"wss?://127", url)]
