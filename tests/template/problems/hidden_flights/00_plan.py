# %% [markdown]
# ## Yours: a look where it is worth most
#
# Dispatchers cannot look at every flight. Nobody has written down so far which flights were late.

# %%
#| yours plan
#| export
from mlops_lifecycle.core.problem.plan import Metric, Plan, Reaction, Revisit, Stakeholder, Step, answered

plan = Plan(
    objective="The few flights that dispatchers can look at are those that need it.",
    stakeholders=(Stakeholder(who="dispatcher", wants="to be sent where it burns", fears="to be sent everywhere"),),
    metrics=(
        Metric(name="cost", target=1.0, unit="looks a flight",
               why="a late flight that nobody looked at is worth five looks"),),
    journey=(Step(who="dispatcher", does="opens the list", gets="the flights unlike the others, three hours ahead"),),
    reactions=(
        Reaction(name="late", asks="outcome", label=1, meaning="it came thirty or more minutes late, or not at all"),
        Reaction(name="on_time", asks="outcome", label=0, meaning="it was in time"),
        Reaction(name="agreed", asks="dispatcher", meaning="it was worth the look"),
        Reaction(name="overruled", asks="dispatcher", meaning="it was not")),
    ethics=answered(
        harm="A flight without a look goes as it went before.", personal="None.", groups="The three airports.",
        consent="Nobody is judged.", misuse="It ranks flights, not people.", off="The dispatchers, at any time."),
    revisit=Revisit(reaction="overruled", share_above=0.8, at_least=20),
    min_saving=0.0)
