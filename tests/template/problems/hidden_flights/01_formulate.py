# %% [markdown]
# ## Yours: unlike the others

# %%
#| yours Request
#| export
from pydantic import Field

from mlops_lifecycle.core.problem.definition import Entity

class Request(Entity):
    "A flight three hours before it leaves, and the weather at its airport."
    flight: str = Field(description="number of the flight in the table", pattern=r"^F\d{6}$",
                        examples=["F000001", "F000002", "F000003"])
    origin: str = Field(description="airport of departure", pattern=r"^[A-Z]{3}$", examples=["EWR", "JFK", "LGA"])
    hour: int = Field(description="hour of the scheduled departure", ge=0, le=23, examples=[6, 12, 20])
    visibility: float = Field(description="miles", ge=0, le=10, examples=[10.0, 9.0, 2.5])
    wind: float = Field(description="miles an hour", ge=0, le=150, examples=[5.0, 11.5, 25.3])
    rain: float = Field(description="inches in the hour", ge=0, le=10, examples=[0.0, 0.02, 0.3])
    humidity: float = Field(description="relative, %", ge=0, le=100, examples=[45.0, 60.5, 95.0])

# %% [markdown]
# Dispatchers look at the evening first: so much is known without any outcome.

# %%
#| yours rule
#| export
from collections.abc import Mapping

import numpy as np

from mlops_lifecycle.core.problem.definition import Rule

def late_in_the_day(columns: Mapping) -> np.ndarray:
    "Share of the day gone by."
    return np.asarray(columns["hour"]) / 24

rule = Rule("late in the day", "1.0", late_in_the_day, threshold=20 / 24, kind="anomaly")

# %%
#| yours problem
#| export
from mlops_lifecycle.core.problem.definition import Problem

problem = Problem(name="strange-flights", entity="flight", target="late", action="look", unit="looks a flight",
                  Request=Request, rule=rule, key=("flight",), protected=("origin",), kind="anomaly")
