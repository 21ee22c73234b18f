# %% [markdown]
# ## Yours: what a dispatcher expects

# %%
#| yours EXPECTATIONS
#| export
from mlops_lifecycle.core.quality.expectations import Expectation

EXPECTATIONS = [
    Expectation("silver.quarantine", "ExpectTableRowCountToBeBetween",
                dict(max_value=5), "collect", "the table is clean"),
    Expectation("gold.examples", "ExpectColumnDistinctValuesToBeInSet",
                dict(column="origin", value_set=["EWR", "JFK", "LGA"]), "collect", "the three airports"),
]

# %%
#| yours EXPLAINED
#| export
EXPLAINED = {}
