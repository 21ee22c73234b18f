# %% [markdown]
# ## Yours: one table
#
# Flights out of New York with the weather that was known three hours before. Whether one was late is written down from
# March on.

# %%
#| yours COLUMNS
#| export
from mlops_lifecycle.core.data.readers import Column

COLUMNS = {"flights": {
    "flight": Column("text", "number of the flight in the table"),
    "origin": Column("text", "airport of departure"),
    "hour": Column("integer", "hour of the scheduled departure"),
    "visibility": Column("number", "visibility", "miles"),
    "wind": Column("number", "wind", "mph"),
    "rain": Column("number", "precipitation in the hour", "inches"),
    "humidity": Column("number", "relative humidity", "%"),
    "known_at": Column("time", "three hours before it should leave"),
    "late": Column("integer",
                   "1 when it came thirty or more minutes late, or not at all; missing where nobody wrote it down"),
    "arrived_at": Column("time", "when that was written down"),
}}

# %%
#| yours AVAILABILITY
#| export
import pandas as pd

def add_known_at(tables: dict[str, pd.DataFrame]) -> dict[str, pd.DataFrame]:
    "The table brings its times along."
    return tables

AVAILABILITY = {"flights": {"known_at": "*", "arrived_at": ["late"]}}
