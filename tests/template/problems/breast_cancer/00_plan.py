# %% [markdown]
# ## Yours: no cancer sent home
#
# Ten measures of a cell sample, and a decision on the same day: to the surgeon, or home.

# %%
#| yours plan
#| export
from mlops_lifecycle.core.problem.plan import Metric, Plan, Reaction, Revisit, Stakeholder, Step, answered

plan = Plan(
    objective="Nobody with a malignant tumour is sent home, and few are frightened without need.",
    stakeholders=(Stakeholder(who="patient", wants="to know today", fears="a cancer overlooked"),),
    metrics=(
        Metric(name="cost", target=1.0, unit="biopsies a sample",
               why="a missed cancer is worth twenty needless biopsies"),),
    journey=(Step(who="doctor", does="takes a sample", gets="a decision on the same day"),),
    reactions=(
        Reaction(name="malignant", asks="outcome", label=1, meaning="the biopsy found a cancer"),
        Reaction(name="benign", asks="outcome", label=0, meaning="the biopsy found none"),
        Reaction(name="agreed", asks="doctor", meaning="the doctor would have decided alike"),
        Reaction(name="overruled", asks="doctor", meaning="the doctor decided otherwise")),
    ethics=answered(
        harm="A doctor sees every patient.", personal="The sample's number.", groups="None are recorded.",
        consent="The form says so.", misuse="It ranks samples, not people.", off="The ward, at any time."),
    revisit=Revisit(reaction="overruled", share_above=0.3, at_least=20),
    min_saving=0.0)
