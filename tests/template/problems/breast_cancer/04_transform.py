# %% [markdown]
# ## Yours: the measures as they are, and one of our own
#
# Nothing is looked up: all that is known comes with the sample. That concave parts of the contour tell something is an
# idea; whether it gains, exploring says.

# %%
#| yours lookups
#| export
from collections.abc import Mapping

import pandas as pd

def examples(silver: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    "Each sample as the request that would ask about it, decided when it was taken."
    wanted = ["sample", "radius", "texture", "smoothness", "concavity", "symmetry", "size",
              "malignant", "label_known_at"]
    return silver["samples"][wanted].assign(decision_time=silver["samples"].known_at)

def lookups(silver: Mapping[str, pd.DataFrame], as_of: pd.Timestamp) -> dict[str, pd.DataFrame]:
    "None."
    return {}

# %%
#| yours FEATURES
#| export
import numpy as np

from mlops_lifecycle.core.models.features import Feature, FeatureSet

def area(radius):
    "Of a circle with this radius."
    return np.pi * radius**2

FEATURES = FeatureSet((
    Feature("radius", unit="µm"),
    Feature("texture"),
    Feature("smoothness"),
    Feature("concavity", idea=True),
    Feature("symmetry"),
    Feature("size", categorical=True),
    Feature("area", ("radius",), area, unit="µm²")))

# %%
#| yours FEATURES
from mlops_lifecycle.core.models.examples import check_inputs
from mlops_lifecycle.formulate import problem

assert "radius" in check_inputs(FEATURES, problem)
