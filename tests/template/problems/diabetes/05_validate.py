# %% [markdown]
# ## Yours: what the ward expects

# %%
#| yours EXPECTATIONS
#| export
from mlops_lifecycle.core.quality.expectations import Expectation

EXPECTATIONS = [
    Expectation("silver.quarantine", "ExpectTableRowCountToBeBetween",
                dict(max_value=5), "collect", "the table is clean"),
    Expectation("gold.examples", "ExpectColumnValuesToBeBetween",
                dict(column="bmi", min_value=10, max_value=60), "collect", "no other unit"),
    Expectation("gold.examples", "ExpectColumnDistinctValuesToBeInSet",
                dict(column="sex", value_set=["1", "2"]), "collect", "what the table knows"),
]

# %%
#| yours EXPLAINED
#| export
EXPLAINED = {}
