"""From the first rule to a supervised model: the ladder on real rows, and a senseless formulation refused by name."""
import numpy as np
import pandas as pd
import pytest

from mlops_lifecycle.core.models.features import Feature, FeatureSet
from mlops_lifecycle.core.models.cold_start import simulate_cold_start
from mlops_lifecycle.core.foundation.settings import SettingsError, load_settings
from mlops_lifecycle.core.foundation.stages import GoBack
from mlops_lifecycle.core.foundation.workspace import Workspace
from mlops_lifecycle.explore import explorable, explore, take_ideas, try_ideas
from mlops_lifecycle.core.problem.costs import Costs, costs_from
from mlops_lifecycle.core.problem.baselines import how_to_learn
from mlops_lifecycle.formulate import problem
from mlops_lifecycle.train import no_target_inside, split, too_few_labels
from mlops_lifecycle.transform import FEATURES
from mlops_lifecycle.validate import expected_of_gold


@pytest.fixture(scope="module")
def gold(lived) -> pd.DataFrame:
    return Workspace(lived.workspace).read("gold.examples", as_of=pd.Timestamp("2013-06-01T00:00Z"))


@pytest.fixture(scope="module")
def past(gold) -> pd.DataFrame: return explorable(gold, problem.target, pd.Timestamp("2013-06-01T00:00Z"), "MS")


NAMES = ("carrier", "origin", "hour_of_day", "distance", "humidity", "visibility", "precipitation")
SOME = tuple(f for f in FEATURES.features if f.name in NAMES)
COSTS = Costs(missed=5, needless=1)


def test_the_ladder_is_climbed_as_feedback_comes_in(gold):
    """At first no answer comes, then few, from February on all; the way to decide changes only when it is significantly cheaper."""
    chance, start = np.random.default_rng(0).random(len(gold)), gold.decision_time.dt.tz_localize(None)
    answered = np.select([start < "2013-01-15", start < "2013-02-01"], [False, chance < 0.04], True)
    asked = gold.assign(label_known_at=gold.label_known_at.where(answered))
    told = simulate_cold_start(asked, FEATURES.features, problem, COSTS, how_to_learn, "SMS", ask=40)
    assert [t["rung"] for t in told] == ["rule", "unsupervised", "few labels", *["supervised"] * 7]
    assert [t["decides"] for t in told] == [problem.rule.name] * 4 + ["supervised"] * 6
    assert told[3]["saves"] <= 0 < told[4]["saves"]
    assert {len(t["queue"]) for t in told[1:]} == {40} and not told[0]["queue"]
    assert not set(told[4]["queue"]) & set(gold.key[start >= "2013-03-01"])
    assert sum(t["cost"] - t["rule"] for t in told[4:]) < 0


def test_labels_that_say_nothing_never_unseat_the_rule(gold):
    """Outcomes dealt out at random: however many there are, the rule does not cost significantly more than a model of them."""
    noise = gold.assign(late=gold.late.sample(frac=1, random_state=0).array, carrier="UA", origin="JFK")
    asked = [t["decides"] for t in simulate_cold_start(noise, SOME[2:3], problem, Costs(1, 1), how_to_learn, "MS", ask=1)]
    assert asked[0] == problem.rule.name and len(set(asked)) <= 2


@pytest.mark.parametrize(("matrix", "says"), [
    ([[0, 1], [1, 5]], '"missed" must cost at least as much as "caught", got 1 and 5'),
    ([[2, 1], [5, 0]], '"needless" must cost at least as much as "quiet", got 1 and 2'),
    ([[0, 1, 2], [5, 0, 2]], "must have 2 rows and 2 columns"),
    ([[0, float("nan")], [5, 0]], '"needless" of the cost matrix must be a number'),
    ([[1, 1], [5, 5]], "every decision is as good as any other"),
])
def test_a_cost_matrix_without_sense_is_refused(matrix, says):
    with pytest.raises(ValueError, match=says): costs_from(matrix)


@pytest.mark.parametrize(("variable", "value", "says"), [
    ("CAUGHT", "9", "missed must cost at least as much as caught, got 5 and 9"),
    ("MISSED", "-1", '"missed" must be 0 to'),
    ("REVIEW", "x", '"review" must be 0 to'),
    ("CAPACITY", "20", '"capacity" must be 0.0001 to 1'),
])
def test_costs_without_sense_are_refused_in_the_settings(variable, value, says):
    with pytest.raises(SettingsError, match=says): load_settings(environ={f"MLOPS_COSTS__{variable}": value})


@pytest.mark.parametrize(("spoil", "back", "says"), [
    (lambda t: t.assign(late=0), "transform", '"late" must be 0 and 1 among the labelled examples'),
    (lambda t: t.assign(visibility=10.0), "transform", 'feature "visibility" is 10.0 in all'),
    (lambda t: t.assign(humidity=np.nan), "transform", 'feature "humidity" is missing in all'),
    (lambda t: t.head(8).assign(late=[0, 1] * 4), "collect", "only 8 rows to learn from lie before")])
def test_what_nothing_can_be_learned_from_is_refused_by_name(gold, spoil, back, says):
    with pytest.raises(GoBack, match=says) as found:
        seen = explorable(spoil(gold), problem.target, pd.Timestamp("2013-06-01T00:00Z"), "MS")
        explore(seen, [f.name for f in SOME], problem.target, "MS")
    assert found.value.stage == back


def test_the_target_among_the_features_is_refused_by_name(gold, past):
    with pytest.raises(GoBack, match='"late" is the target and stands among the features'):
        explore(past, ["distance", "late"], problem.target, "MS")
    with pytest.raises(GoBack, match='feature "was" is made from "late"'):
        no_target_inside(FeatureSet((Feature("was", ("late",), lambda late: late),)), "late")
    assert 'the "train" set has' in too_few_labels(split(gold.head(10), "late", "2013-06-01T00:00Z", "MS"), "late")


def test_an_idea_that_gains_takes_the_way_back_and_one_that_does_not_is_refused(past):
    """Known beforehand how the day will go: no such column exists, but if it did, it would be found. The tail of the
    flight number is noise."""
    day = past.decision_time.dt.floor("D")
    told = past.assign(how_the_day_goes=past.groupby(day).late.transform("mean").astype(float),
                       last_digit=(past.flight % 10).astype(float))
    ideas = [Feature("how_the_day_goes"), Feature("last_digit")]
    tried = try_ideas(told, list(SOME), ideas, problem.target, COSTS, max_rows=6000)
    assert tried.set_index("idea").gains.to_dict() == {"how_the_day_goes": True, "last_digit": False}
    with pytest.raises(GoBack, match='the idea "how_the_day_goes" saves significantly') as back: take_ideas(tried)
    assert (back.value.stage, back.value.parameters) == ("transform", {"ideas": "how_the_day_goes"})
    take_ideas(tried[~tried.gains])
    # the way back is taken: it is learned from, and held to what its unit says
    with_idea = FeatureSet((*SOME, Feature("how_the_day_goes", unit="share", idea=True)))
    assert "how_the_day_goes" in with_idea.learned(("how_the_day_goes",)).names
    assert "how_the_day_goes" not in with_idea.learned(()).names
    expected = expected_of_gold(with_idea.describe(), problem.target)
    held = [e.arguments for e in expected if e.arguments.get("column") == "how_the_day_goes"]
    assert {"column": "how_the_day_goes", "min_value": 0, "max_value": 1} in held and len(held) >= 2
