# %% [markdown]
# ## Yours: the weather as it is

# %%
#| yours lookups
#| export
from collections.abc import Mapping

import pandas as pd

def examples(silver: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    "Each flight as the request that would ask about it, decided three hours before."
    wanted = ["flight", "origin", "hour", "visibility", "wind", "rain", "humidity", "late", "label_known_at"]
    return silver["flights"][wanted].assign(decision_time=silver["flights"].known_at)

def lookups(silver: Mapping[str, pd.DataFrame], as_of: pd.Timestamp) -> dict[str, pd.DataFrame]:
    "None."
    return {}

# %%
#| yours FEATURES
#| export
from mlops_lifecycle.core.models.features import Feature, FeatureSet

def darkness(visibility, rain):
    "Little to see, and wet."
    return (10 - visibility) * (1 + rain)

FEATURES = FeatureSet((
    Feature("visibility", unit="miles"),
    Feature("wind", unit="mph"),
    Feature("rain", unit="inches"),
    Feature("humidity", unit="%"),
    Feature("darkness", ("visibility", "rain"), darkness)))

# %%
#| yours FEATURES
from mlops_lifecycle.core.models.examples import check_inputs
from mlops_lifecycle.formulate import problem

assert "wind" in check_inputs(FEATURES, problem)
