# %% [markdown]
# ## Yours: the estimators

# %%
#| yours estimators
#| export
import numpy as np
from sklearn.base import BaseEstimator
from sklearn.compose import make_column_transformer
from sklearn.ensemble import RandomForestRegressor
from sklearn.impute import SimpleImputer
from sklearn.linear_model import Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

def ridge(categorical: list[bool], seed: int) -> BaseEstimator:
    "One weight a category, one a scaled amount."
    names, amounts = np.flatnonzero(categorical).tolist(), np.flatnonzero(~np.array(categorical)).tolist()
    filled = make_pipeline(SimpleImputer(keep_empty_features=True), StandardScaler())
    prepared = make_column_transformer((OneHotEncoder(handle_unknown="ignore"), names), (filled, amounts))
    return make_pipeline(prepared, Ridge())

# %%
#| yours estimators
#| export
def forest(categorical: list[bool], seed: int) -> BaseEstimator:
    "Few rows, so many small trees."
    forest = RandomForestRegressor(n_estimators=60, min_samples_leaf=5, random_state=seed)
    return make_pipeline(SimpleImputer(keep_empty_features=True), forest)

estimators = {"ridge": ridge, "forest": forest}
search_space = {}
