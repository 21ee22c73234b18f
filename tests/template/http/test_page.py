"""The page for people, in a headless Chromium: the form is the contract's; keyboard, phone and the dark will do."""
import re
from contextlib import closing

import pytest
import sqlalchemy as sa
from playwright.sync_api import expect
from seen import PHONE, Seen, chromium
from test_http import add_model, served, settings, trial
from slots import put_in_slots

from mlops_lifecycle.core.serving.auth import make_key
from mlops_lifecycle.core.serving.store import ServingLog, feedback
from mlops_lifecycle.formulate import problem
from mlops_lifecycle.plan import plan
from mlops_lifecycle.serving import create_app


@pytest.fixture(scope="module")
def browser():
    with chromium() as browser: yield browser


@pytest.fixture(scope="module")
def api(tmp_path_factory):
    """The app with a small model, whose answers have reasons."""
    workspace = trial(tmp_path_factory.mktemp("page"))
    log = ServingLog(workspace.serving_db); put_in_slots(log, stable=add_model(workspace)); log.close()
    with served(create_app(settings(), workspace)) as client: client.workspace = workspace; yield client


def opened(browser, api, **options) -> Seen:
    """The page, freshly opened."""
    seen = Seen(browser, f"127.0.0.1:{api.base_url.port}", **options)
    seen.page.goto(str(api.base_url))
    return seen


def harmless(seen: Seen) -> bool: return not seen.elsewhere and not seen.errors and not any(seen.sideways().values())


def test_the_form_is_the_contract(browser, api):
    """Each field of the request, in its order, with its meaning, its limits and a made-up value; what is optional says so."""
    page = opened(browser, api).page
    schema = problem.Request.model_json_schema()
    assert page.eval_on_selector_all("form [name]", "all => all.map(e => e.name)") == list(schema["properties"])
    for name, part in schema["properties"].items():
        field = page.locator(f"#{name}")
        assert page.get_by_label(name.replace("_", " "), exact=False).count()
        assert part["description"] in page.locator(f"#{name}-about").inner_text()
        assert field.input_value() == str(part["examples"][0])
        assert (field.get_attribute("required") is None) == (name not in schema["required"])
        for limit, html in (("minimum", "min"), ("maximum", "max")):
            if limit in part: assert float(field.get_attribute(html)) == part[limit]


def test_asked_answered_and_noted_by_keyboard_alone(browser, api):
    """From the first field to the reaction: the answer takes the focus, its reasons are told, the log has both."""
    seen = opened(browser, api)
    page, press = seen.page, seen.page.keyboard.press
    for name in problem.Request.model_fields: press("Tab"); assert page.evaluate("document.activeElement.id") == name
    press("Enter")
    expect(page.locator("#decision")).to_be_focused()
    expect(page.locator("#decision")).to_contain_text(re.compile(problem.action))
    expect(page.locator("#figures")).to_contain_text("Decided by small")
    expect(page.locator("#reasons tr").first).to_be_visible()
    press("Tab")
    assert page.evaluate("document.activeElement.textContent") == plan.reactions[0].name.replace("_", " ")
    press("Space")
    expect(page.locator("#noted")).to_have_text(f"Noted: {plan.reactions[0].name.replace('_', ' ')}")
    expect(page.locator("#reactions [aria-pressed=true]")).to_have_count(1)
    with closing(ServingLog(api.workspace.serving_db)) as log:
        with log.database.read() as stored: rows = stored.execute(sa.select(feedback)).all()
        assert [(row.reaction, row.sandbox) for row in rows] == [(plan.reactions[0].name, True)]  # what the form asks is a trial
        assert log.predictions.get(rows[0].prediction_id)["sandbox"] and not len(log.frames()[1])
    page.locator("#reactions button").nth(1).click()  # the same question, otherwise: the first answer stands
    expect(page.locator("#noted")).to_contain_text("answered before")
    assert harmless(seen)


def test_what_is_wrong_is_said_at_its_field(browser, api):
    """By the browser where it can, else by the app; what lies outside of the scope says why, and the next try is answered."""
    seen = opened(browser, api)
    page = seen.page
    page.fill("#carrier", "united"); page.click("form button")
    assert page.evaluate("document.activeElement.id") == "carrier" and page.locator("#answer").is_hidden()
    page.fill("#carrier", "UA"); page.fill("#scheduled_departure", "tomorrow"); page.click("form button")
    expect(page.locator("#scheduled_departure")).to_be_focused()
    expect(page.locator("#scheduled_departure-wrong")).to_contain_text("Input is not a time; write it like 2024-03-10T00:00:00Z")
    page.fill("#scheduled_departure", "2014-01-06T05:45:00-05:00")
    page.locator("#origin").evaluate("choices => choices.add(new Option('SFO'))")  # what the form does not offer
    page.select_option("#origin", "SFO"); page.click("form button")
    expect(page.locator("#wrong")).to_contain_text(problem.scope[0].says)
    page.select_option("#origin", "EWR"); page.click("form button")
    expect(page.locator("#answer")).to_be_visible()
    assert page.locator("#wrong").is_hidden() and not page.locator("[aria-invalid]").count() and harmless(seen)


CONTRAST = """() => {
  const rgb = text => text.match(/[0-9.]+/g).slice(0, 3).map(Number);
  const linear = v => (v /= 255) <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4;
  const light = c => { const [r, g, b] = rgb(c).map(linear); return .2126 * r + .7152 * g + .0722 * b };
  const behind = e => {
    for (; e; e = e.parentElement) {
      const c = getComputedStyle(e).backgroundColor;
      if (!/, 0\\)$|transparent/.test(c)) return c;
    }
    return 'rgb(255, 255, 255)';
  };
  const texts = [...document.querySelectorAll('h1, h2, h3, p, label, legend, small, input, button, th, td, a')];
  return texts.filter(e => e.offsetParent && (e.textContent.trim() || e.value)).map(e => {
    const [a, b] = [light(getComputedStyle(e).color), light(behind(e))].sort();
    return [(Math.max(a, b) + .05) / (Math.min(a, b) + .05), e.outerHTML.slice(0, 80)];
  }).sort((x, y) => x[0] - y[0]);
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_can_be_read_on_a_phone_by_day_and_by_night(browser, api, scheme):
    """Every text has a contrast of 4.5 or more, nothing scrolls sideways, and what is tapped is large enough."""
    seen = opened(browser, api, viewport=PHONE, color_scheme=scheme)
    page = seen.page
    page.click("form button")
    expect(page.locator("#reactions button").first).to_be_visible()
    dark = page.evaluate("getComputedStyle(document.body).backgroundColor") != "rgb(255, 255, 255)"
    assert dark == (scheme == "dark")
    worst, where = page.evaluate(CONTRAST)[0]
    assert worst >= 4.5, f"{where} has a contrast of {worst:.1f}"
    heights = page.eval_on_selector_all("button", "all => all.filter(e => e.offsetParent).map(e => e.getBoundingClientRect().height)")
    assert heights and min(heights) >= 44
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"] and harmless(seen)


def test_where_a_key_is_needed_the_page_asks_for_it(browser, tmp_path):
    """Not before; what was typed stays in the tab, and the answer comes."""
    workspace = trial(tmp_path)
    log = ServingLog(workspace.serving_db); key = make_key(log, "desk", ["predict", "feedback"]); log.close()
    with served(create_app(settings(), workspace)) as api:
        seen = opened(browser, api)
        page = seen.page
        assert page.locator("#key").is_hidden()
        page.click("form button")
        expect(page.locator("#key-value")).to_be_focused()
        page.keyboard.type(key); page.keyboard.press("Enter")
        expect(page.locator("#figures")).to_contain_text(problem.rule.name)
        page.reload(); page.click("form button")
        expect(page.locator("#answer")).to_be_visible()
        assert harmless(seen)
