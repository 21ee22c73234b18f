"""The quick form answers as scikit-learn does, wherever a tree forks."""
import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from sklearn.ensemble import (
    ExtraTreesClassifier,
    ExtraTreesRegressor,
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    IsolationForest,
    RandomForestClassifier,
    RandomForestRegressor,
)
from sklearn.impute import SimpleImputer
from sklearn.pipeline import make_pipeline

from mlops_lifecycle.core.models.ensembles import averaged
from mlops_lifecycle.core.models.release import model_bytes, read_model
from mlops_lifecycle.core.models.tree_inference import Trees, difficult_rows
from mlops_lifecycle.core.problem.tasks import ask

CODES = 5  # of the first column


def learnt(seed: int):
    """Codes, numbers of all sizes, whole numbers that 32 bits cannot tell apart, halves; a tenth is missing."""
    rng = np.random.default_rng(seed)
    large = rng.normal(size=200) * 10.0 ** rng.integers(-20, 20, 200)
    X = np.column_stack([rng.integers(0, CODES, 200), large, 2 ** 24 + rng.integers(0, 40, 200), rng.integers(0, 9, 200) / 2])
    signal = (X[:, 0] == 2) + X[:, 2] % 7 / 7 + X[:, 3] / 4 + rng.normal(scale=0.3, size=200)
    X[rng.random(X.shape) < 0.1] = np.nan
    return X, signal


def behind(strategy: str, trees):
    return make_pipeline(SimpleImputer(strategy=strategy, fill_value=-999, keep_empty_features=True), trees)


def categories(kind, **changes):
    return kind(max_iter=15, min_samples_leaf=5, categorical_features=[True, False, False, False], **changes)


LATE = {
    "boosting": lambda seed: categories(HistGradientBoostingClassifier, random_state=seed),
    "forest": lambda seed: RandomForestClassifier(9, min_samples_leaf=2, random_state=seed),
    "weighted forest": lambda seed: RandomForestClassifier(9, class_weight="balanced", max_depth=4, random_state=seed),
    "extra trees": lambda seed: behind("constant", ExtraTreesClassifier(9, random_state=seed)),
    "median": lambda seed: behind("median", ExtraTreesClassifier(9, max_leaf_nodes=20, random_state=seed))}
DAYS = {
    "boosting": lambda seed: categories(HistGradientBoostingRegressor, random_state=seed),
    "absolute error": lambda seed: categories(HistGradientBoostingRegressor, loss="absolute_error", random_state=seed),
    "counts": lambda seed: categories(HistGradientBoostingRegressor, loss="poisson", random_state=seed),
    "forest": lambda seed: RandomForestRegressor(9, random_state=seed),
    "extra trees": lambda seed: behind("constant", ExtraTreesRegressor(9, max_leaf_nodes=20, random_state=seed)),
    "mean": lambda seed: behind("mean", ExtraTreesRegressor(9, random_state=seed)),
    "most frequent": lambda seed: behind("most_frequent", RandomForestRegressor(9, criterion="absolute_error", random_state=seed))}


@pytest.mark.parametrize("families", [LATE, DAYS], ids=["late", "days"])
@settings(max_examples=15, deadline=None, phases=[p for p in Phase if p is not Phase.shrink])  # a shrunk forest says no more
@given(data=st.data(), seed=st.integers(0, 2 ** 31))
def test_the_quick_form_comes_to_the_leaves_of_scikit_learn(families, data, seed):
    names = data.draw(st.lists(st.sampled_from(sorted(families)), min_size=1, max_size=3))
    X, signal = learnt(seed)
    y = signal > 1 if families is LATE else np.exp(signal)
    fitted = [families[name](seed + i).fit(X, y.astype(float if families is DAYS else int)) for i, name in enumerate(names)]
    model = read_model(model_bytes(averaged(fitted) if len(fitted) > 1 else fitted[0]))
    trees = Trees.read(bytes(Trees.of(model)))
    rows = np.concatenate([X, difficult_rows(trees, [CODES, 0, 0, 0], 1_000, seed)])
    expected = ask(model, rows)
    np.testing.assert_allclose(trees.table(rows), expected, rtol=1e-9, atol=2e-9)  # odds are bounded at a billionth
    np.testing.assert_allclose([trees.one(row) for row in rows.tolist()], expected, rtol=1e-9, atol=2e-9)


@pytest.mark.parametrize("changes", [{}, {"max_features": 0.5}, {"max_samples": 20, "bootstrap": True}])
def test_an_isolation_forest_finds_the_same_rows_strange(changes):
    X, _ = learnt(0)
    detector = behind("mean", IsolationForest(n_estimators=30, random_state=0, **changes)).fit(X)
    trees = Trees.read(bytes(Trees.of(detector)))
    rows = np.concatenate([X, difficult_rows(trees, [CODES, 0, 0, 0], 1_000)])
    np.testing.assert_allclose(trees.table(rows), ask(detector, rows), rtol=1e-7)  # treelite keeps the usual depth in 32 bits
    np.testing.assert_allclose([trees.one(row) for row in rows[:300].tolist()], ask(detector, rows[:300]), rtol=1e-7)
