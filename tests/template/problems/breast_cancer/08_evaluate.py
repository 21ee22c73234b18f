# %% [markdown]
# ## Yours: what every pathologist would say
#
# Larger nuclei are more suspect. The area goes with the radius.

# %%
#| yours BEHAVIOURS
#| export
import pandas as pd

from mlops_lifecycle.core.models.model_tests import Behaviour

BEHAVIOURS = (
    Behaviour("larger nuclei", lambda rows: {"radius": rows["radius"] * 1.4, "area": rows["area"] * 1.4**2}, "higher",
              among=lambda rows: rows["radius"] < 15),)

def declared_groups(rows: pd.DataFrame) -> pd.DataFrame:
    "None beside the protected field."
    return pd.DataFrame(index=rows.index)
