# %% [markdown]
# ## Yours: what a dispatcher expects

# %%
#| export
EXPECTATIONS = [
    Expectation("silver.quarantine", "ExpectTableRowCountToBeBetween",
                dict(max_value=5), "collect", "the table is clean"),
    Expectation("gold.examples", "ExpectColumnDistinctValuesToBeInSet",
                dict(column="origin", value_set=["EWR", "JFK", "LGA"]), "collect", "the three airports"),
]

# %%
#| export
EXPLAINED = {}
