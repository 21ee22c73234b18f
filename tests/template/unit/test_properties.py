"""What must hold for any data: nothing from later, one definition of a feature, joins that keep their rows."""
from datetime import UTC

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from helpers import ROOT
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from own_stages import collect_own, curate_own, transform_own

from mlops_lifecycle.core.data.readers import MISSING, convert
from mlops_lifecycle.core.foundation.point_in_time import known
from mlops_lifecycle.core.foundation.times import read_time
from mlops_lifecycle.core.models.features import Encoder, Feature, FeatureSet, Lookup, Slices, add_features, as_of_join
from mlops_lifecycle.core.serving.batch import Coded, whole_features
from mlops_lifecycle.core.serving.store import ServingLog
from mlops_lifecycle.core.foundation.settings import load_settings
from mlops_lifecycle.core.foundation.workspace import Workspace, from_arrow, to_arrow
from mlops_lifecycle.formulate import problem
from mlops_lifecycle.core.serving.predictor import columns_for, features_for
from mlops_lifecycle.transform import FEATURES

START, END = pd.Timestamp("2013-02-07T06:00Z"), pd.Timestamp("2013-02-11T12:00Z")  # snow, and many delays
# a whole life cycle of four days is no smaller with another number
few = settings(max_examples=6, deadline=None, phases=[p for p in Phase if p is not Phase.shrink])


class Days:
    """Bronze of four real days, and a workspace that it can be published in."""
    def __init__(self, flights: pd.DataFrame, folder):
        flights[(flights.month == "2") & flights.day.isin(["7", "8", "9", "10"])].to_csv(folder / "flights.csv", index=False)
        self.settings = load_settings(ROOT, environ={"MLOPS_SOURCE__FLIGHTS__WHERE": str(folder / "flights.csv")})
        self.workspace, self.bronze = Workspace(folder / "workspace"), collect_own(self.settings.source, ROOT)

    def gold(self, tables: dict, as_of: pd.Timestamp):
        """Published, read back through the gate, curated and transformed."""
        store, availability = self.workspace.store, self.bronze.availability
        named = {f"bronze.{name}": store(f"bronze.{name}", table, availability[name]) for name, table in tables.items()}
        self.workspace.publish(named)
        read = {name: self.workspace.read(f"bronze.{name}", as_of=as_of) for name in tables}
        return transform_own(curate_own(read, self.settings.source, self.workspace.pseudonyms).tables, as_of)


@pytest.fixture(scope="module")
def days(flights, tmp_path_factory):
    return Days(flights, tmp_path_factory.mktemp("days"))


def shuffled(table: pd.DataFrame, availability: dict, moment: pd.Timestamp, seed: int) -> pd.DataFrame:
    """The table with all that became known after the moment dealt anew among its rows."""
    table, rng = table.copy(), np.random.default_rng(seed)
    timed = {c for gated in availability.values() if gated != "*" for c in gated}
    for column, gated in availability.items():
        later, order = np.flatnonzero(~(table[column] <= moment).to_numpy(bool)), np.arange(len(table))
        order[later] = rng.permutation(later)
        amounts = [c for c in table if pd.api.types.is_numeric_dtype(table[c]) and c not in timed]
        for name in (amounts if gated == "*" else [column, *gated]): table[name] = table[name].iloc[order].array
    return table


@few
@given(hours=st.integers(20, 90), seed=st.integers(0, 2**32 - 1))
def test_shuffling_what_became_known_later_changes_nothing(days, hours, seed):
    moment, true = START + pd.Timedelta(hours, unit="h"), days.bronze.tables
    other = {name: shuffled(table, days.bronze.availability[name], moment, seed) for name, table in true.items()}
    assert not other["flights"].equals(true["flights"]) and not other["weather"].equals(true["weather"])
    for as_of in (moment, END):  # asked then, and asked afterwards about then
        one, two = days.gold(true, as_of), days.gold(other, as_of)
        pd.testing.assert_frame_equal(known(one.examples, moment, one.availability), known(two.examples, moment, two.availability))
        for name in one.lookups:
            first, second = (known(gold.lookups[name], moment, {"known_at": "*"}) for gold in (one, two))
            pd.testing.assert_frame_equal(first, second)
    assert len(one.examples) > 1_000


def test_training_and_serving_features_are_equal_row_for_row(days, tmp_path):
    gold, flights, features = days.gold(days.bronze.tables, END), days.bronze.tables["flights"], FEATURES
    log, encoder = ServingLog(tmp_path / "serving.db"), Encoder.fit(gold.examples, features.features)
    for lookup in features.lookups: log.lookups.put(lookup, gold.lookups[lookup.name])
    asked = flights.sample(300, random_state=0).rename(columns={"dest": "destination", "tailnum": "tail_number"})
    asked["scheduled_departure"] = asked.scheduled_departure.dt.tz_convert("America/New_York")
    trained, missing = gold.examples.set_index("key"), 0
    for flight in asked[list(problem.Request.model_fields)].astype(object).where(asked.notna(), None).to_dict("records"):
        leaves = flight["scheduled_departure"].tz_convert("UTC").tz_localize(None).to_datetime64()
        decided = problem.decision_time({"scheduled_departure": leaves})
        _, row = columns_for(problem, problem.Request.model_validate(flight), days.workspace, decided)
        served, before = features_for(features, row, log.lookups, decided), trained.loc[problem.key_of(row)]
        for name in features.names:
            both = [served[name], before[name]]
            missing += pd.isna(both[0])
            assert pd.isna(both).all() or both[0] == both[1], f"{name} of {flight}: served {both[0]}, trained {both[1]}"
        np.testing.assert_array_equal(encoder.encode(served), encoder.encode(before.to_frame().T))
    log.close()
    assert 0 < missing < 300 * len(features.names) / 2


def test_what_the_stage_leaves_in_parts_is_what_it_makes_in_memory(lived):
    workspace = Workspace(lived.workspace)
    published = workspace.published()
    as_of = pd.Timestamp(published["passed"]["transform"]["as_of"])
    made = transform_own({name: workspace.read(f"silver.{name}", as_of=as_of) for name in ("flights", "weather")}, as_of)
    for name, table in {"examples": made.examples, **{f"lookup_{n}": t for n, t in made.lookups.items()}}.items():
        pd.testing.assert_frame_equal(workspace.read(f"gold.{name}"), from_arrow(to_arrow(table)), check_exact=True)
    assert len(made.examples) > 10_000 and published["names"]["gold.examples"]["gates"] == made.availability


times = st.integers(0, 50)
rows = st.lists(st.tuples(st.sampled_from("ab"), times), max_size=20)
history = st.lists(st.tuples(st.sampled_from("abc"), times), max_size=20, unique=True)


def at_branches(found: list[tuple[str, int]], time: str) -> pd.DataFrame:
    """Branches and hours as a table."""
    seconds = pd.Series([hour for _, hour in found], dtype="int64") * 3_600
    moments = pd.to_datetime(seconds, unit="s", utc=True).astype("datetime64[us, UTC]")
    return pd.DataFrame({"branch": pd.Series([b for b, _ in found], dtype="str"), time: moments})


@settings(max_examples=60, deadline=None)
@given(examples=rows, table=history, age=st.sampled_from([None, 0, 5]))
def test_an_as_of_join_keeps_each_row_once_and_finds_the_latest(examples, table, age):
    left = at_branches(examples, "decision_time").set_axis(range(7, 7 + len(examples)))
    right = at_branches(table, "known_at").assign(waiting=np.arange(len(table), dtype=float))
    joined = as_of_join(left, right, Lookup("queue", ("branch",), ("waiting",), None if age is None else f"{age}h"))
    young = lambda at, t: at <= t and (age is None or t - at <= age)
    best = lambda b, t: max(((at, i) for i, (of, at) in enumerate(table) if of == b and young(at, t)), default=(0, np.nan))[1]
    pd.testing.assert_frame_equal(joined[list(left)], left)
    np.testing.assert_array_equal(joined.waiting.to_numpy(float), [best(b, t) for b, t in examples])


@settings(max_examples=60, deadline=None)
@given(examples=st.lists(st.tuples(st.sampled_from("ab"), times), min_size=1, max_size=20), table=history,
       age=st.sampled_from([None, 0, 5]), key=st.sampled_from([(), ("branch",)]), cuts=st.sets(times, max_size=4))
def test_wherever_the_slices_are_cut_the_features_are_the_same(examples, table, age, key, cuts):
    if not key: table = list({t: (b, t) for b, t in table}.values())  # one row a moment
    left = at_branches(examples, "decision_time").sort_values("decision_time", kind="stable")
    right = at_branches(table, "known_at").assign(waiting=np.arange(len(table), dtype=float))
    right = right.sort_values("known_at", kind="stable", ignore_index=True)
    features = FeatureSet((Feature("waiting"),), (Lookup("queue", key, ("waiting",), None if age is None else f"{age}h"),))
    def between(name, after, until):
        return right[(right.known_at <= until) & (True if after is None else right.known_at > after)]
    number = np.searchsorted(sorted(cuts), left.decision_time.astype("int64") / 3.6e9)
    slices = [part for _, part in left.groupby(number) if len(part)]
    sliced, whole = pd.concat(map(Slices(features, between).add, slices)), add_features(features, left, {"queue": right})
    pd.testing.assert_frame_equal(sliced, whole, check_exact=True)


HOUR = st.integers(0, 8)  # after the first of March: few, so that many fall together
ARRIVED = st.lists(st.tuples(st.sampled_from(["Hill", "Harbour"]), HOUR, st.integers(0, 9)), max_size=12,
                   unique_by=lambda row: row[:2])
LOANS = st.lists(st.tuples(st.sampled_from(["Hill", "Harbour", "Mill", None]), HOUR, st.integers(1, 5)), min_size=1,
                 max_size=20)


@settings(max_examples=60, deadline=None)
@given(arrived=ARRIVED, loans=LOANS, now=HOUR, max_age=st.sampled_from([None, "2h", "6h"]))
def test_a_file_gets_the_features_that_single_requests_get(tmp_path_factory, arrived, loans, now, max_age):
    """The form of the batch, a column at a time, and the form of the app, a request at a time, give the same values."""
    start = np.datetime64("2024-03-01", "us")
    queue = Lookup("queue", ("branch",), ("waiting",), max_age=max_age)
    features = FeatureSet((Feature("books"), Feature("waiting"),
                           Feature("waiting_per_book", ("waiting", "books"), lambda waiting, books: waiting / books)), (queue,))
    log = ServingLog(tmp_path_factory.mktemp("desk") / "serving.db")
    if arrived:
        branch, hour, waiting = zip(*arrived)
        known_at = pd.to_datetime(start + np.array(hour, "m8[h]"), utc=True)
        log.lookups.put(queue, pd.DataFrame({"branch": branch, "known_at": known_at, "waiting": waiting}))
    rows = [{"branch": branch if branch else np.nan, "books": books, "decision_time": start + np.timedelta64(hour, "h")}
            for branch, hour, books in loans]
    coded = {name: Coded.of(pd.Series([row[name] for row in rows]).array) for name in rows[0]}
    at = start + np.timedelta64(now, "h")
    whole, _, _ = whole_features(features, coded, log, at, fallback_after_ages=4)
    single = pd.DataFrame([features_for(features, row, log.lookups, at) for row in rows])
    log.close()
    pd.testing.assert_frame_equal(pd.DataFrame(whole), single, check_dtype=False)


DIGITS = st.integers(0, 10**7).map(str)
DAYS_AND_CLOCKS = st.builds(
    "{}{}{}{}{}".format, st.sampled_from(["2024-03-10", "2024-02-30", "1899-12-31", "2199-12-31", "0000-01-01", "2024-3-1", "20240310"]),
    st.sampled_from(["T", "t", " ", "", "_"]), st.sampled_from(["17:00", "17:00:59", "24:00", "17:60", "17:00:60", "1700", ""]),
    st.one_of(st.just(""), DIGITS.map(".{}".format), DIGITS.map(",{}".format)),
    st.sampled_from(["Z", "z", "", "+01:00", "-0330", "+02", "+24:00", "+01:60", " +01:00", "UTC", "+00:00Z"]))


@settings(max_examples=300, deadline=None)
@given(texts=st.lists(st.one_of(DAYS_AND_CLOCKS, DIGITS, st.datetimes().map(str), st.text(max_size=12)), min_size=1, max_size=30))
def test_kind_2_a_column_of_times_is_read_as_each_of_its_times_alone(texts):
    def alone(text):
        try: return read_time(text).astimezone(UTC)
        except ValueError: return None
    values, bad = convert(pa.array(texts), "time")
    assert values.to_pylist() == [alone(text) for text in texts]
    assert bad.tolist() == [alone(text) is None and text not in MISSING for text in texts]
