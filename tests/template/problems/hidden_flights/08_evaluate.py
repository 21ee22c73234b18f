# %% [markdown]
# ## Yours: what every dispatcher would say
#
# A storm is unlike other weather.

# %%
#| yours BEHAVIOURS
#| export
import pandas as pd

from mlops_lifecycle.core.models.model_tests import Behaviour

STORM = {"visibility": 0.5, "wind": 45.0, "rain": 0.4, "humidity": 98.0, "darkness": 13.3}
BEHAVIOURS = (Behaviour("a storm", lambda rows: STORM, "higher", among=lambda rows: rows["visibility"] >= 9),)

def declared_groups(rows: pd.DataFrame) -> pd.DataFrame:
    "None beside the protected field."
    return pd.DataFrame(index=rows.index)
