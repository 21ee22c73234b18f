# %% [markdown]
# ## Yours: a number, not a yes

# %%
#| yours Request
#| export
from pydantic import Field

from mlops_lifecycle.core.problem.definition import Entity

class Request(Entity):
    "A patient's measures at the first visit."
    patient: str = Field(description="number of the patient", pattern=r"^P\d{4}$", examples=["P0001", "P0002", "P0003"])
    age: float = Field(description="years", ge=0, le=120, examples=[45.0, 58.0, 63.0])
    sex: str = Field(description="as in the table, 1 or 2", pattern=r"^[12]$", examples=["1", "2"])
    bmi: float = Field(description="body mass index", gt=0, le=100, examples=[23.5, 26.0, 31.2])
    pressure: float = Field(description="mean blood pressure, mmHg", gt=0, le=250, examples=[85.0, 94.0, 110.0])
    hdl: float = Field(description="high-density lipoproteins", gt=0, le=200, examples=[39.0, 50.0, 61.0])
    triglycerides: float = Field(description="logarithm of the triglycerides, perhaps", gt=0, le=10,
                                 examples=[4.2, 4.7, 5.2])
    glucose: float = Field(description="blood sugar", gt=0, le=500, examples=[81.0, 92.0, 101.0])

# %% [markdown]
# The heavier, the further: so much is known before any data. Twenty points more are planned, since too few are dearer.

# %%
#| yours rule
#| export
from collections.abc import Mapping

import numpy as np

from mlops_lifecycle.core.problem.definition import Rule

def by_weight(columns: Mapping) -> np.ndarray:
    "Six points for each of the body mass index."
    return np.asarray(columns["bmi"]) * 6.0

rule = Rule("by weight", "1.0", by_weight, threshold=20.0, kind="regression")

# %%
#| yours problem
#| export
from mlops_lifecycle.core.problem.definition import Problem

problem = Problem(name="diabetes-progression", entity="patient", target="progression", action="plan care for",
                  unit="hours a patient",
                  Request=Request, rule=rule, key=("patient",), protected=("sex",), kind="regression")
