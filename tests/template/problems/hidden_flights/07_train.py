# %% [markdown]
# ## Yours: two ways to be unlike the others

# %%
#| yours estimators
#| export
from sklearn.base import BaseEstimator
from sklearn.ensemble import IsolationForest
from sklearn.impute import SimpleImputer
from sklearn.pipeline import make_pipeline

from mlops_lifecycle.core.models.cold_start import Unusual

def isolation_forest(categorical: list[bool], seed: int) -> BaseEstimator:
    "What is soon alone when rows are cut at random."
    return make_pipeline(SimpleImputer(keep_empty_features=True), IsolationForest(n_estimators=60, random_state=seed))

# %%
#| yours estimators
#| export
estimators = {
    "isolation forest": isolation_forest,
    "outside of clusters": lambda categorical, seed: Unusual(random_state=seed),
}
search_space = {}
