# %% [markdown]
# ## Yours: one table
#
# Scikit-learn's breast cancer table. It has no time; `settings.ini` lets a row arrive every half hour. The biopsy
# takes an hour.

# %%
#| yours COLUMNS
#| export
from mlops_lifecycle.core.data.readers import Column

COLUMNS = {"samples": {
    "sample": Column("text", "number of the sample"),
    "radius": Column("number", "mean radius of the nuclei", "µm"),
    "texture": Column("number", "deviation of the grey values"),
    "smoothness": Column("number", "local variation of the radius"),
    "concavity": Column("number", "severity of the contour's concave parts"),
    "symmetry": Column("number", "symmetry"),
    "size": Column("text", "small or large"),
    "malignant": Column("integer", "what the biopsy found: 1 a cancer"),
    "known_at": Column("time", "when the sample was taken", source="computed"),
    "diagnosed_at": Column("time", "when the biopsy's result came", source="computed"),
}}

# %%
#| yours AVAILABILITY
#| export
import pandas as pd

def add_known_at(tables: dict[str, pd.DataFrame]) -> dict[str, pd.DataFrame]:
    "Add when the result came."
    return tables | {"samples": tables["samples"].assign(diagnosed_at=tables["samples"].known_at + pd.Timedelta("1h"))}

AVAILABILITY = {"samples": {"known_at": "*", "diagnosed_at": ["malignant"]}}
