# %% [markdown]
# ## Yours: what came of it, where somebody wrote it down

# %%
#| yours TABLES
#| export
from mlops_lifecycle.core.data.catalog import Table

TABLES = {"flights": Table("the dispatchers", ("features", "labels", "monitoring", "reports"),
                           rules={"wind above 150 mph": lambda t: t.wind > 150})}

# %%
#| yours QUESTION
#| export
import pandas as pd

from mlops_lifecycle.core.data.readers import Column

LABEL_COLUMNS = {"flights": {"label_known_at": Column("time", "when it was written down", source="computed")}}
LABEL_AVAILABILITY = {"flights": {"label_known_at": ["late"]}}

def label(tables: dict[str, pd.DataFrame]) -> dict[str, pd.DataFrame]:
    "The table brings its outcome along, where there is one."
    return tables | {"flights": tables["flights"].assign(label_known_at=tables["flights"].arrived_at)}

QUESTION = None  # nobody remembers
