# %% [markdown]
# ## Yours: what came of it

# %%
#| yours TABLES
#| export
from mlops_lifecycle.core.data.catalog import Table

TABLES = {
    "patients": Table("the ward", ("features", "labels", "monitoring", "reports"),
                      rules={"a body of no weight": lambda t: t.bmi <= 0}),
    "wards": Table("the hospital", ("reports",)),
}

# %%
#| yours QUESTION
#| export
import pandas as pd

from mlops_lifecycle.core.data.readers import Column

LABEL_COLUMNS = {"patients": {"label_known_at": Column("time", "when the outcome came", source="computed")}}
LABEL_AVAILABILITY = {"patients": {"label_known_at": ["progression"]}}

def label(tables: dict[str, pd.DataFrame]) -> dict[str, pd.DataFrame]:
    "The table brings its outcome along; say from when on it is known."
    return tables | {"patients": tables["patients"].assign(label_known_at=tables["patients"].measured_at)}

QUESTION = None  # nobody can measure it for the table
