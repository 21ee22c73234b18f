# %% [markdown]
# ## Yours: what the biopsy found

# %%
#| export
RULES = {"samples": {"a radius of nothing": lambda t: t.radius <= 0}}
WINNERS = {}

# %%
#| export
LABEL_COLUMNS = {"samples": {"label_known_at": Column("time", "when the biopsy's result came", source="computed")}}
LABEL_GATES = {"samples": {"label_known_at": ["malignant"]}}

def label(tables: dict[str, pd.DataFrame]) -> dict[str, pd.DataFrame]:
    "The table brings its label along; say from when on it is known."
    return tables | {"samples": tables["samples"].assign(label_known_at=tables["samples"].diagnosed_at)}
