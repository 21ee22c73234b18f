# %% [markdown]
# ## Yours: the estimators

# %%
#| yours estimators
#| export
import numpy as np
from sklearn.base import BaseEstimator
from sklearn.compose import make_column_transformer
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

def logistic_regression(categorical: list[bool], seed: int) -> BaseEstimator:
    "One weight a category, one a scaled amount."
    names, amounts = np.flatnonzero(categorical).tolist(), np.flatnonzero(~np.array(categorical)).tolist()
    filled = make_pipeline(SimpleImputer(keep_empty_features=True), StandardScaler())
    prepared = make_column_transformer((OneHotEncoder(handle_unknown="ignore"), names), (filled, amounts))
    return make_pipeline(prepared, LogisticRegression(random_state=seed))

# %%
#| yours estimators
#| export
def small_boosting(categorical: list[bool], seed: int) -> BaseEstimator:
    "Few rows, small leaves."
    return HistGradientBoostingClassifier(
        max_iter=60, min_samples_leaf=5, categorical_features=categorical, random_state=seed)

estimators = {"logistic regression": logistic_regression, "small boosting": small_boosting}
search_space = {}
