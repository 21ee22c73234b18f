# %% [markdown]
# ## Yours: malignant or not

# %%
#| yours Request
#| export
from typing import Literal

from pydantic import Field

from mlops_lifecycle.core.problem.definition import Entity

class Request(Entity):
    "A cell sample under the microscope; means over its nuclei."
    sample: str = Field(description="number of the sample", pattern=r"^S\d{4}$", examples=["S0001", "S0002", "S0003"])
    radius: float = Field(description="mean radius, micrometres", gt=0, le=100, examples=[12.0, 14.5, 20.1])
    texture: float = Field(description="deviation of the grey values", gt=0, le=100, examples=[14.0, 19.2, 25.3])
    smoothness: float = Field(description="local variation of the radius", gt=0, le=1, examples=[0.08, 0.1, 0.12])
    concavity: float = Field(description="severity of the contour's concave parts", ge=0, le=1,
                             examples=[0.0, 0.05, 0.3])
    symmetry: float = Field(description="symmetry", gt=0, le=1, examples=[0.15, 0.18, 0.21])
    size: Literal["small", "large"] = Field(description="as the doctor noted it", examples=["small", "large"])

# %% [markdown]
# Large nuclei are suspect: every pathologist says so, and no data was needed for it.

# %%
#| yours rule
#| export
from collections.abc import Mapping

import numpy as np

from mlops_lifecycle.core.problem.definition import Rule

def large_nuclei(columns: Mapping) -> np.ndarray:
    "The radius against one that nobody doubts."
    return np.asarray(columns["radius"]) / 30

rule = Rule("large nuclei", "1.0", large_nuclei, threshold=0.45)

# %%
#| yours problem
#| export
from mlops_lifecycle.core.problem.definition import Problem

problem = Problem(
    name="malignant-tumours", entity="sample", target="malignant", action="take a biopsy", unit="biopsies a sample",
    Request=Request, rule=rule, key=("sample",), protected=("size",))
