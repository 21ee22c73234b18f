"""Features as the app and training see them, on real flights; and a search that is cut short."""
import json
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from helpers import ROOT, cells, directives
from own_stages import collect_own, curate_own, transform_own
from sklearn.dummy import DummyClassifier
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from mlops_lifecycle.core.foundation.point_in_time import known
from mlops_lifecycle.core.models.features import Feature, FeatureSet, Lookup, as_of_join, within_reach
from mlops_lifecycle.core.serving.store import ServingLog
from mlops_lifecycle.core.foundation.settings import load_settings
from mlops_lifecycle.core.foundation.workspace import Workspace
from mlops_lifecycle.formulate import problem
from mlops_lifecycle.core.serving.predictor import columns_for, features_for
from mlops_lifecycle.core.models.search import CandidateSpec, candidate_specs
from mlops_lifecycle.release import training_cells
from mlops_lifecycle.train import train
from mlops_lifecycle.core.models.examples import check_inputs
from mlops_lifecycle.transform import FEATURES

END = pd.Timestamp("2013-01-21T05:00Z")


@pytest.fixture(scope="module")
def weeks(flights, tmp_path_factory):
    """Gold of the first twenty days, and the workspace whose key made the pseudonyms."""
    folder = tmp_path_factory.mktemp("weeks")
    flights[(flights.month == "1") & (flights.day.astype(int) <= 20)].to_csv(folder / "flights.csv", index=False)
    here = {"MLOPS_SOURCE__FLIGHTS__WHERE": str(folder / "flights.csv")}
    settings, workspace = load_settings(ROOT, environ=here), Workspace(folder / "workspace")
    bronze = collect_own(settings.source, ROOT)
    read = {name: known(table[[c for c in table if not c.startswith("_")]], END, bronze.availability[name])
            for name, table in bronze.tables.items()}
    gold = transform_own(curate_own(read, settings.source, workspace.pseudonyms).tables, END)
    return SimpleNamespace(gold=gold, flights=read["flights"], workspace=workspace, settings=settings)


def test_two_thousand_requests_at_their_decision_time_get_the_features_of_gold(weeks, tmp_path):
    """The online table holds everything, also what became known later; each request finds what was known then."""
    gold, log = weeks.gold, ServingLog(tmp_path / "serving.db")
    asked = weeks.flights.rename(columns={"dest": "destination", "tailnum": "tail_number"})
    asked = asked.sample(2_000, random_state=0)
    times = gold.examples.set_index("key").decision_time
    for lookup in FEATURES.lookups: log.lookups.put(lookup, within_reach(lookup, gold.lookups[lookup.name], times))
    asked["scheduled_departure"] = asked.scheduled_departure.dt.tz_convert("America/New_York")
    served, keys = [], []
    requests = asked[list(problem.Request.model_fields)].astype(object).where(asked.notna(), None)
    for flight in requests.to_dict("records"):
        departs = flight["scheduled_departure"].tz_convert("UTC").tz_localize(None)
        decided = problem.decision_time({"scheduled_departure": departs.to_datetime64()})
        _, row = columns_for(problem, problem.Request.model_validate(flight), weeks.workspace, decided)
        served.append(features_for(FEATURES, row, log.lookups, decided)); keys.append(problem.key_of(row))
    log.close()
    trained = gold.examples.set_index("key").loc[keys, FEATURES.names].reset_index(drop=True)
    served = pd.DataFrame(served)[FEATURES.names].astype(trained.dtypes)
    pd.testing.assert_frame_equal(served, trained, check_exact=True)
    assert len(served) == 2_000 and trained.notna().mean().drop(["wind_gust", "gust_6h"]).min() > 0.2


def test_what_may_still_be_found_is_all_that_is_found(weeks):
    some = weeks.gold.examples.sample(300, random_state=1)
    for lookup in FEATURES.lookups:
        table = weeks.gold.lookups[lookup.name]
        whole, part = (as_of_join(some, t, lookup) for t in (table, within_reach(lookup, table, some.decision_time)))
        pd.testing.assert_frame_equal(whole, part)


def test_nothing_tells_a_cancelled_flight_by_its_missing_tail_number(weeks):
    """Only cancelled flights lack it in these data; no feature may know."""
    gold = weeks.gold.examples
    without = gold.tail_number.isna()
    assert without.sum() > 20 and (gold.late[without] == 1).all()
    by_aircraft = {v for lookup in FEATURES.lookups if "tail_number" in lookup.key for v in lookup.values}
    of_aircraft = [f.name for f in FEATURES.features if set(f.inputs) & by_aircraft]
    assert of_aircraft and gold.loc[without, of_aircraft].isna().all(axis=None)
    for name in of_aircraft:
        assert gold.loc[~without, name].isna().sum() > 20 * without.sum(), f"{name} is missing for hardly any other"


def test_a_join_that_multiplies_rows_is_refused(weeks):
    table = weeks.gold.lookups["weather"]
    twice = pd.concat([table, table[:1]])
    with pytest.raises(ValueError, match='lookup "weather" has 2 rows that share a key and a time'):
        as_of_join(weeks.gold.examples, twice, FEATURES.lookups[0])


@pytest.mark.parametrize("column", ["late", "arr_delay", "departed_at", "label_known_at"])
def test_a_feature_that_is_known_only_afterwards_is_refused(column):
    with pytest.raises(ValueError, match=f"takes \\['{column}'\\], which is not known at the decision"):
        check_inputs(FeatureSet((Feature("oracle", (column,)),)), problem)
    with pytest.raises(ValueError, match="which is not known"):
        check_inputs(FeatureSet((Feature("late", ("distance",), np.sqrt),)), problem)
    with pytest.raises(ValueError, match="lacks"):
        as_of_join(pd.DataFrame({"origin": [], "decision_time": []}), pd.DataFrame({"origin": []}),
                   Lookup("landed", ("origin",), (column,)))


FEW = ("hour_of_day", "origin_left_late_3h", "leg_delay", "distance")
few = FeatureSet(tuple(f for f in FEATURES.features if f.name in FEW))


def line(categorical, seed, **changes): return make_pipeline(SimpleImputer(), LogisticRegression(**changes))


def small(weeks, tmp_path, stop: int = 0, **budget):
    """A search among lines on the flights of three weeks; interrupted at the fit with this number."""
    plain = {"seed": 3, "sample": 0, "folds": 2, "split": "time", "group": "", "candidates": 0, "seconds": 0, "finalists": 0, "keep": 2}
    settings = SimpleNamespace(costs=SimpleNamespace(missed=5, needless=1), clock=SimpleNamespace(period="5D"),
                               train=SimpleNamespace(**plain | budget))
    settings.plain = SimpleNamespace(release=SimpleNamespace(allow=()))
    fits = []
    def counted(categorical, seed, **changes):
        fits.append(changes)
        if len(fits) == stop: raise KeyboardInterrupt
        return line(categorical, seed, **changes)
    said = []
    def dummy(categorical, seed): return DummyClassifier()
    made = lambda: train(weeks.gold.examples, few, problem, settings, END, {"line": counted, "dummy": dummy},
                         search_space={"line": {"C": (0.001, 0.01, 0.1, 10.0)}}, folder=tmp_path, tell=said.append)
    if not stop: return made(), fits, said
    with pytest.raises(KeyboardInterrupt): made()
    return None, fits, said


def test_a_search_ended_by_the_clock_is_repeated_by_its_count(weeks, tmp_path):
    """However many it tried, and however many of them on all rows: for these numbers, the same to the last bit."""
    found, _, said = small(weeks, None, seconds=0.4)
    again, _, _ = small(weeks, None, candidates=len(found.trials), finalists=sum(one.share == 1 for one in found.trials))
    assert 2 <= len(found.trials) <= 6 and [c.name for c in found] == [c.name for c in again] and said
    for one, two in zip(found, again, strict=True):
        np.testing.assert_array_equal(one.score(weeks.gold.examples), two.score(weeks.gold.examples))
        assert (one.calibration, one.metrics, one.folds) == (two.calibration, two.metrics, two.folds)


def test_after_an_interrupt_the_next_search_fits_only_what_is_missing(weeks, tmp_path):
    whole, fits, _ = small(weeks, None)
    small(weeks, tmp_path, stop=5)  # the first is only looked at, to see what kind of model it is
    kept = {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    assert len(kept) >= 3
    found, rest, _ = small(weeks, tmp_path)
    now = {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    assert len(rest) == len(fits) - 3 and kept.items() <= now.items()
    np.testing.assert_array_equal(found[0].score(weeks.gold.examples), whole[0].score(weeks.gold.examples))
    assert json.dumps([c.metrics for c in found]) == json.dumps([c.metrics for c in whole])


def test_recipes_are_tried_in_an_order_that_the_seed_fixes():
    grid = {"line": {"C": tuple(range(1, 30))}}
    one, two, other = ([r.name for r in candidate_specs({"line": line}, grid, seed)] for seed in (1, 1, 2))
    assert one == two != other and sorted(one) == sorted(other) and one[0] == CandidateSpec("line", line).name == "line"


def test_of_too_few_outcomes_nothing_is_trained_and_the_reason_is_said(weeks):
    settings = SimpleNamespace(costs=SimpleNamespace(missed=5, needless=1), clock=SimpleNamespace(period="5D"),
                               train=SimpleNamespace(seed=0, sample=0))
    for examples, words in (
        (weeks.gold.examples.assign(late=0), "0 rows with late = 1"),
        (weeks.gold.examples[:10], "set has"),
    ):
        none = train(examples, few, problem, settings, END, {"line": line})
        assert not none and words in none.missing


@pytest.mark.parametrize("notebook", ["07_train", *(f"core/models/{n}" for n in (
    "search", "candidates", "calibration", "ensembles"))])
def test_a_release_names_every_cell_that_made_its_model(notebook):
    exported = {c["id"] for c in cells(ROOT / f"nbs/{notebook}.ipynb") if {"export", "exporti"} & directives(c["text"])}
    assert exported and set(training_cells()[f"{notebook}.ipynb"]) == exported
