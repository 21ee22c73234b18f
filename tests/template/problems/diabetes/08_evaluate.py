# %% [markdown]
# ## Yours: what every doctor would say
#
# The heavier, the further.

# %%
#| yours BEHAVIOURS
#| export
import pandas as pd

from mlops_lifecycle.core.models.model_tests import Behaviour

def heavier(rows): return {"bmi": rows["bmi"] + 10, "strain": (rows["bmi"] + 10) * rows["pressure"]}

BEHAVIOURS = (
    Behaviour("ten points more of the body mass index", heavier, "higher", among=lambda rows: rows["bmi"] < 30),)

def declared_groups(rows: pd.DataFrame) -> pd.DataFrame:
    "None beside the protected field."
    return pd.DataFrame(index=rows.index)
