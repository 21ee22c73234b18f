# %% [markdown]
# ## Yours: the weather as it is

# %%
#| export
def examples(silver: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    "Each flight as the request that would ask about it, decided three hours before."
    wanted = ["flight", "origin", "hour", "visibility", "wind", "rain", "humidity", "late", "label_known_at"]
    return silver["flights"][wanted].assign(decision_time=silver["flights"].known_at)

def lookups(silver: Mapping[str, pd.DataFrame], as_of: pd.Timestamp) -> dict[str, pd.DataFrame]:
    "None."
    return {}

# %%
#| export
def darkness(visibility, rain):
    "Little to see, and wet."
    return (10 - visibility) * (1 + rain)

FEATURES = FeatureSet((
    Feature("visibility", unit="miles"),
    Feature("wind", unit="mph"),
    Feature("rain", unit="inches"),
    Feature("humidity", unit="%"),
    Feature("darkness", ("visibility", "rain"), darkness)))

# %%
assert "wind" in check_inputs(FEATURES, problem)
