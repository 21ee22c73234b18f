"""The year 2013 as 05 would have seen it month by month: honest, or with a fault put into one of its zones."""
import hashlib
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
from own_stages import collect_own, curate_own, transform_own

from mlops_lifecycle.core.foundation.point_in_time import known
from mlops_lifecycle.core.quality.profiles import describe_table, entries
from mlops_lifecycle.core.quality.drift import alarms, changes, judge
from mlops_lifecycle.core.foundation.settings import load_settings
from mlops_lifecycle.core.problem.time_zones import common_zone
from mlops_lifecycle.formulate import problem

SETTINGS = load_settings(Path(__file__).resolve().parents[3] / "settings.ini", environ={})
SOURCES = {name: source for name, source in SETTINGS.source.items() if source.kind != "log"}
PERSONAL = {"tailnum", *problem.personal}


def secret(values):
    """Pseudonyms of nobody's workspace."""
    names = {v: hashlib.sha256(str(v).encode()).hexdigest()[:16] for v in values.dropna().unique()}
    return values.map(names).astype("str")


@cache
def bronze():
    return collect_own(SOURCES, SETTINGS.root)


def lived(as_of: pd.Timestamp, bronze_fault=None, silver_fault=None, gold_fault=None) -> pd.DataFrame:
    """The log of distributions of all zones at `as_of`; a fault takes the tables of its zone and gives them back."""
    def broken(tables, fault): return tables | fault(tables) if fault else tables
    sources = bronze()
    came = {n: known(t[[c for c in t if not c.startswith("_")]], as_of, sources.availability.get(n, {}))
            for n, t in sources.tables.items()}
    came = broken(came, bronze_fault)
    silver = curate_own(came, SOURCES, secret, as_of)
    clean = broken(dict(silver.tables), silver_fault)
    gold = transform_own(clean, as_of)
    made = broken({"examples": gold.examples}, gold_fault)
    zones = {"bronze": (came, sources.availability), "silver": (clean, silver.availability),
             "gold": (made, {"examples": gold.availability})}
    def described(name, table, availability):
        return describe_table(lambda columns: table[columns], name, list(table), availability, len(table), as_of, "MS",
                              PERSONAL, common_zone(problem.zone))
    seen = {f"{zone}.{n}": described(f"{zone}.{n}", t, availability[n])
            for zone, (tables, availability) in zones.items() for n, t in tables.items() if availability.get(n)}
    return entries(seen, "run", as_of)


@cache
def honest() -> pd.DataFrame:
    """The log at the end of the year, with nothing put into it."""
    return lived(pd.Timestamp("2014-01-01T00:00Z"))


def raised(log: pd.DataFrame) -> list[dict]:
    """Every alarm that 05 would have raised, each month with what was known before it."""
    limits = SETTINGS.drift
    return alarms(judge(changes(log, limits.min_rows), limits.false_alarms, f"{limits.warm_up_days}D"))


def celsius(t, on): return t.assign(**{c: t[c].where(~on, (t[c] - 32) / 1.8) for c in ("temp", "dewp")})


def five_hours_on(t, on):
    clocks = ("scheduled_departure", "scheduled_departure_local")
    return t.assign(**{c: t[c].where(~on, t[c] + pd.Timedelta("5h")).astype(t[c].dtype) for c in clocks})


def kilometres(t, on): return t.assign(distance=t.distance.where(~on, t.distance * 1.609344))


def stuck(t, on): return t.assign(temp=t.temp.where(~(on & (t.origin == "JFK")), 55.04))


def renamed(t, on): return t.assign(carrier=t.carrier.where(~(on & (t.carrier == "VX")), "VV"))


def halved(t, on): return t[~on | (np.arange(len(t)) % 2 == 0)].reset_index(drop=True)


def doubled(t, on): return pd.concat([t, t[on]], ignore_index=True)


FAULTS = {  # fault: (zone, table, its time, what the fault does to the table's rows from a month on)
    "another unit: distances in kilometres": ("bronze", "flights", "scheduled_departure", kilometres),
    "another unit: temperatures in °C": ("bronze", "weather", "time_hour", celsius),
    "a stuck sensor at one of three stations": ("bronze", "weather", "time_hour", stuck),
    "a new category: one airline's code changes": ("bronze", "flights", "scheduled_departure", renamed),
    "half the rows gone": ("bronze", "flights", "scheduled_departure", halved),
    "a shifted clock: five hours, as UTC taken for local": ("silver", "flights", "scheduled_departure", five_hours_on),
    "doubled rows: a file came twice": ("bronze", "flights", "scheduled_departure", doubled),
    "doubled rows: a join multiplies": ("gold", "examples", "decision_time", doubled),
}
STAGE = {"bronze": "collect", "silver": "curate", "gold": "transform"}


def with_fault(name: str, month: pd.Timestamp) -> list[dict]:
    """The alarms of a month in which a fault begins, seen at its end."""
    zone, table, time, breaks = FAULTS[name]
    def broken(tables):
        rows = tables[table]
        return {table: breaks(rows, (rows[time] >= month).to_numpy(bool))}
    log = lived(month + pd.offsets.MonthBegin(), **{f"{zone}_fault": broken})
    return [a for a in raised(log) if a["period"] == f"{month:%Y-%m-%d}"]
