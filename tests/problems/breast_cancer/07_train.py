# %% [markdown]
# ## Yours: the families

# %%
#| yours estimators
#| export
def logistic_regression(categorical: list[bool], seed: int) -> BaseEstimator:
    "One weight a category, one a scaled amount."
    names, amounts = np.flatnonzero(categorical).tolist(), np.flatnonzero(~np.array(categorical)).tolist()
    filled = make_pipeline(SimpleImputer(keep_empty_features=True), StandardScaler())
    prepared = make_column_transformer((OneHotEncoder(handle_unknown="ignore"), names), (filled, amounts))
    return make_pipeline(prepared, LogisticRegression(random_state=seed))

# %%
#| yours estimators
#| export
def small_boosting(categorical: list[bool], seed: int) -> BaseEstimator:
    "Few rows, small leaves."
    return HistGradientBoostingClassifier(
        max_iter=60, min_samples_leaf=5, categorical_features=categorical, random_state=seed)

estimators = {"logistic regression": logistic_regression, "small boosting": small_boosting}
