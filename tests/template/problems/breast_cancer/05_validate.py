# %% [markdown]
# ## Yours: what a pathologist expects

# %%
#| yours EXPECTATIONS
#| export
from mlops_lifecycle.core.quality.expectations import Expectation

EXPECTATIONS = [
    Expectation("silver.quarantine", "ExpectTableRowCountToBeBetween",
                dict(max_value=5), "collect", "the table is clean"),
    Expectation("gold.examples", "ExpectColumnValuesToBeBetween",
                dict(column="radius", min_value=5, max_value=40), "collect", "micrometres"),
    Expectation("gold.examples", "ExpectColumnDistinctValuesToBeInSet",
                dict(column="size", value_set=["small", "large"]), "collect", "what a doctor may note"),
]

# %%
#| yours EXPLAINED
#| export
EXPLAINED = {}
