"""Silver and what is built on it: no real value of a person behind bronze, wall clocks of the nights of the changes."""
import re
import sqlite3
from pathlib import Path

import pandas as pd
import pytest
from helpers import ROOT
from deltalake import DeltaTable
from playwright.sync_api import expect
from own_stages import collect_own, curate_own
from seen import Seen, chromium

from mlops_lifecycle.collect import COLUMNS, ZONES
from mlops_lifecycle.core.data.catalog import comment_of
from mlops_lifecycle.core.foundation.settings import load_settings
from mlops_lifecycle.core.foundation.workspace import Workspace
from mlops_lifecycle.core.data.table_cleaning import real_values
from mlops_lifecycle.curate import TABLES


def words_of(content: bytes) -> set[str]:
    return {w.decode() for w in re.findall(rb"[A-Za-z0-9]{3,20}", content)}


def said_in(root: Path) -> dict[str, set[str]]:
    """Every word in the tables, databases and files under a folder, bronze left out."""
    found = {}
    for log in root.rglob("_delta_log"):
        if "bronze" in log.parts: continue
        table = DeltaTable(log.parent)
        for version in range(table.version() + 1):
            table.load_as_version(version)
            frame = table.to_pyarrow_table().to_pandas()
            texts = frame.select_dtypes(exclude="number")
            values = "\n".join(str(v) for c in texts for v in texts[c].dropna().unique())
            found[f"{log.parent.name} {version}"] = words_of(values.encode())
    files = (p for p in root.rglob("*") if p.is_file() and p.suffix != ".parquet")
    for path in (p for p in files if not {"bronze", "_delta_log"} & set(p.parts)):
        found[str(path)] = words_of(path.read_bytes())
        if path.suffix == ".db":
            with sqlite3.connect(f"file:{path}?mode=ro", uri=True) as database:
                found[str(path)] |= words_of("\n".join(database.iterdump()).encode())
    return found


def test_no_real_value_of_a_person_stands_anywhere_behind_bronze(lived):
    workspace = Workspace(lived.workspace)
    bronze = {n: workspace.read(f"bronze.{n}") for n in ("flights", "planes")}
    real = {v for v in real_values(bronze, COLUMNS, TABLES) if len(v) >= 5}
    assert len(real) > 1_000
    said = said_in(workspace.root) | said_in(Path(lived.site).parent)
    assert {"flights", "lookup_aircraft"} <= {name.split(" ")[0] for name in said}
    assert any(name.endswith("serving.db") for name in said)
    assert not {name: sorted(words & real)[:3] for name, words in said.items() if words & real}
    assert words_of(bronze["planes"].tailnum[0].encode()) & real  # what is looked for would be found


def test_wall_clocks_agree_with_instants_in_the_nights_of_the_changes(flights, tmp_path):
    nights = flights[(flights.month + "-" + flights.day).isin(["3-10", "11-3"])]
    nights.to_csv(tmp_path / "flights.csv", index=False)
    settings = load_settings(environ={"MLOPS_SOURCE__FLIGHTS__WHERE": str(tmp_path / "flights.csv")})
    collected = collect_own(settings.source, settings.root).tables
    tables = {n: t[[c for c in t if not c.startswith("_")]] for n, t in collected.items()}  # as a reader finds them
    silver = curate_own(tables, settings.source, Workspace(tmp_path).pseudonyms)
    table = silver.tables["flights"]
    assert len(table) == len(nights) and not (silver.quarantine.source == "flights").any()
    local, utc = table.scheduled_departure_local, table.scheduled_departure.dt.tz_localize(None)
    offset = (local - utc).dt.total_seconds() / 3600
    assert offset.groupby(table.month).unique().map(set).to_dict() == {3: {-4.0}, 11: {-5.0}}
    later = tables["flights"].scheduled_departure_local + pd.Timedelta("1h")
    moved = tables["flights"].assign(scheduled_departure_local=later)
    wrong = curate_own({**tables, "flights": moved}, settings.source, Workspace(tmp_path).pseudonyms).quarantine
    said = '"scheduled_departure_local" is not what the clock of America/New_York showed at "scheduled_departure"'
    assert (wrong[wrong.source == "flights"].reason == said).sum() == len(nights)


@pytest.fixture(scope="module")
def browser():
    with chromium() as browser: yield browser


def test_the_catalog_is_a_page_that_can_be_searched(browser, lived):
    seen, catalog = Seen(browser), Workspace(lived.workspace).load("catalog")
    seen.page.goto((lived.site.parent / lived.run["run"] / "catalog.html").as_uri())
    rows = seen.page.locator("section section tbody tr:visible")
    expect(seen.page.locator("#narrowed")).to_have_text(f"{sum(map(len, catalog.values()))} columns")
    seen.page.locator("#narrow").fill("tailnum linkage")
    expect(seen.page.locator("#narrowed")).to_have_text(f"{rows.count()} columns")
    assert rows.count() == sum("tailnum" in columns for columns in catalog.values()) == 2
    seen.page.locator("#narrow").fill("no such thing")
    expect(seen.page.locator("#narrowed")).to_have_text("0 columns")
    assert not seen.elsewhere and not seen.errors


def test_delta_tells_the_same_as_the_catalog(lived):
    workspace = Workspace(lived.workspace)
    for table, columns in workspace.load("catalog").items():
        if workspace.version(f"silver.{table}") is None: continue
        fields = DeltaTable(workspace.root / "lake" / "silver" / table).schema().fields
        assert {f.name: f.metadata["comment"] for f in fields} == {c: comment_of(entry) for c, entry in columns.items()}
        for entry in columns.values():
            parts = [entry[name] for name in ("meaning", "unit", "type", "source", "owner", "personal", "fresh")]
            parts += entry["uses"]
            assert all(part in comment_of(entry) for part in parts), entry


def test_times_computed_from_schedule_and_delay_show_the_recorded_clock():
    """All arrivals of the year but one, in the night in which the clocks changed."""
    sources = load_settings(ROOT, environ={}).source
    tables = collect_own({name: sources[name] for name in ("flights", "airports", "weather")}, ROOT).tables
    parts = [tables["flights"]] if isinstance(tables["flights"], pd.DataFrame) else tables["flights"]
    flights = pd.concat(parts, ignore_index=True)
    zone = flights.dest.map(tables["airports"].dropna().set_index("faa").tzone.to_dict() | ZONES)
    landed = flights[flights.arr_delay.notna() & flights.arr_time.notna()]
    clocks = [rows.arrived_at.dt.tz_convert(name).dt for name, rows in landed.groupby(zone[landed.index])]
    shown = pd.concat([(clock.hour * 100 + clock.minute) % 2400 for clock in clocks])
    assert len(landed) == 327_346 and (shown != landed.arr_time.astype(int).loc[shown.index] % 2400).sum() == 1
