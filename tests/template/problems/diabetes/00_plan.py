# %% [markdown]
# ## Yours: enough care for everybody
#
# How far will the disease have come in a year? The ward plans so many hours of care.

# %%
#| yours plan
#| export
from mlops_lifecycle.core.problem.plan import Metric, Plan, Reaction, Revisit, Stakeholder, Step, answered

plan = Plan(
    objective="Each patient finds the care that is needed in a year, and little of it stands idle.",
    stakeholders=(Stakeholder(who="patient", wants="to be cared for", fears="that nobody has time"),),
    metrics=(Metric(name="cost", target=100.0, unit="hours a patient", why="a point too few is worth three too many"),),
    journey=(Step(who="doctor", does="measures a patient", gets="an amount to plan for, and the range to expect"),),
    reactions=(
        Reaction(name="measured", asks="outcome", label="value", meaning="the progression after a year"),
        Reaction(name="agreed", asks="doctor", meaning="the doctor would have planned alike"),
        Reaction(name="overruled", asks="doctor", meaning="the doctor planned otherwise")),
    ethics=answered(
        harm="A doctor sees every patient.", personal="The patient's number.", groups="Men and women.",
        consent="The form says so.", misuse="It plans hours, it does not judge people.", off="The ward, at any time."),
    revisit=Revisit(reaction="overruled", share_above=0.3, at_least=20),
    min_saving=0.0)
