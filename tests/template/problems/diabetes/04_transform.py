# %% [markdown]
# ## Yours: the measures as they are, and one of our own

# %%
#| yours lookups
#| export
from collections.abc import Mapping

import pandas as pd

def examples(silver: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    "Each patient as the request that would ask about them, decided at the first visit."
    wanted = ["patient", "age", "sex", "bmi", "pressure", "hdl", "triglycerides", "glucose",
              "progression", "label_known_at"]
    return silver["patients"][wanted].assign(decision_time=silver["patients"].known_at)

def lookups(silver: Mapping[str, pd.DataFrame], as_of: pd.Timestamp) -> dict[str, pd.DataFrame]:
    "None."
    return {}

# %%
#| yours FEATURES
#| export
from mlops_lifecycle.core.models.features import Feature, FeatureSet

def strain(bmi, pressure):
    "Weight and pressure together."
    return bmi * pressure

FEATURES = FeatureSet((
    Feature("age", unit="years"),
    Feature("sex", categorical=True),
    Feature("bmi"),
    Feature("pressure", unit="mmHg"),
    Feature("hdl"),
    Feature("triglycerides"),
    Feature("glucose"),
    Feature("strain", ("bmi", "pressure"), strain)))

# %%
#| yours FEATURES
from mlops_lifecycle.core.models.examples import check_inputs
from mlops_lifecycle.formulate import problem

assert "bmi" in check_inputs(FEATURES, problem)
