# %% [markdown]
# ## Yours: a table, and what changes in another
#
# Scikit-learn's diabetes table. It has no time; `settings.ini` lets a row arrive every three hours, and the outcome an
# hour after it. The wards are somebody else's table; what changes in it comes as events.

# %%
#| yours COLUMNS
#| export
from mlops_lifecycle.core.data.readers import Column

COLUMNS = {"patients": {
    "patient": Column("text", "number of the patient"),
    "age": Column("number", "age", "years"),
    "sex": Column("text", "1 or 2"),
    "bmi": Column("number", "body mass index"),
    "pressure": Column("number", "mean blood pressure", "mmHg"),
    "hdl": Column("number", "high-density lipoproteins"),
    "triglycerides": Column("number", "logarithm of the triglycerides, perhaps"),
    "glucose": Column("number", "blood sugar"),
    "progression": Column("number", "how far the disease came in a year"),
    "known_at": Column("time", "when the patient was measured", source="computed"),
    "measured_at": Column("time", "when the outcome came", source="computed"),
}, "wards": {
    "ward": Column("text", "name of the ward"),
    "beds": Column("integer", "beds"),
}}

# %%
#| yours AVAILABILITY
#| export
import pandas as pd

def add_known_at(tables: dict[str, pd.DataFrame]) -> dict[str, pd.DataFrame]:
    "Add when the outcome came."
    patients = tables["patients"]
    return tables | {"patients": patients.assign(measured_at=patients.known_at + pd.Timedelta("1h"))}

AVAILABILITY = {"patients": {"known_at": "*", "measured_at": ["progression"]}}
