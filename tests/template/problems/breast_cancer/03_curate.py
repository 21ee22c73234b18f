# %% [markdown]
# ## Yours: what the biopsy found

# %%
#| yours TABLES
#| export
from mlops_lifecycle.core.data.catalog import Table

TABLES = {"samples": Table("the pathology", ("features", "labels", "monitoring", "reports"),
                           rules={"a radius of nothing": lambda t: t.radius <= 0})}

# %%
#| yours QUESTION
#| export
import pandas as pd

from mlops_lifecycle.core.data.labelling import Question
from mlops_lifecycle.core.data.readers import Column

LABEL_COLUMNS = {"samples": {"label_known_at": Column("time", "when the biopsy's result came", source="computed")}}
LABEL_AVAILABILITY = {"samples": {"label_known_at": ["malignant"]}}

def label(tables: dict[str, pd.DataFrame]) -> dict[str, pd.DataFrame]:
    "The table brings its label along; say from when on it is known."
    return tables | {"samples": tables["samples"].assign(label_known_at=tables["samples"].diagnosed_at)}

QUESTION = Question(
    "samples", "malignant", "Was it a cancer?", (0, 1), rule="unanimous",
    waits=lambda t, now: t.malignant.isna() & (t.known_at + pd.Timedelta("30D") < now))
