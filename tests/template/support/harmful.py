"""A library that lends books, a release and a rule that do harm, and what follows its log.

Releases hold no code, so what does harm is a class of this module, which a test allows by name.
"""
import os
import shutil
import signal
import time
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path

import numpy as np
from pydantic import Field

from mlops_lifecycle.core.foundation.settings import CanarySettings
from mlops_lifecycle.core.foundation.workspace import Workspace
from mlops_lifecycle.core.models.features import Encoder, Feature, FeatureSet
from mlops_lifecycle.core.models.release import Release, write_release
from mlops_lifecycle.core.operations.shadow import Pair, Shadow, ShadowLimits
from mlops_lifecycle.core.problem.costs import Costs
from mlops_lifecycle.core.problem.definition import Entity, Moment, Problem, Rule
from mlops_lifecycle.core.serving.predictor import Releases
from mlops_lifecycle.core.serving.store import ServingLog, prediction_row

KEPT = []  # of what leaks


def crash(): os.kill(os.getpid(), signal.SIGSEGV)
def leave(): os._exit(3)
def fail(): raise ValueError("many times")
def no_number(): return np.nan
def far(): return 1.5


def hang():
    while True: pass


def slow():
    until = time.perf_counter() + 0.005
    while time.perf_counter() < until: pass
    return 1.0


def leak():
    KEPT.append(np.ones(1_000_000))  # 8 MB
    return 1.0


HARM = dict(enumerate((crash, leave, hang, fail, no_number, far, slow, leak), 20))  # by how often a loan was renewed
OF = {harm.__name__: times for times, harm in HARM.items()}


def renewed(columns):
    """The rule's score."""
    return HARM[columns["renewals"]]() if columns["renewals"] in HARM else columns["renewals"]


class Harmful:
    """Half a chance for everybody, and harm to some; or to all, already while it is loaded."""
    def __init__(self, always: bool = False): self.always = always

    def predict_proba(self, matrix):
        chance = leave() if self.always else HARM.get(float(matrix[0, 0]), lambda: 0.5)()
        return np.array([[1 - chance, chance]] * len(matrix))


class Loan(Entity):
    reader: str = Field(pattern="^R[0-9]{4}$", examples=["R0001"], json_schema_extra={"personal": True})
    branch: str = Field(examples=["Hill"])
    due: Moment = Field(examples=["2024-03-02T18:00:00Z"])
    renewals: int = Field(examples=[3])


ALLOW = ("harmful.Harmful",)
rule = Rule("often renewed", "1.0", renewed, 2.0)
library = Problem("reminders", "loan", "late", "send a reminder", "euro a loan", Loan, rule, key=("reader", "due"))
COSTS = Costs(missed=5, needless=1)
LIMITS = CanarySettings(steps="10, 50, 100", min_labelled=20, min_days=1, outcome_depends_on_decision="no")
features = FeatureSet((Feature("renewals"), Feature("branch", categorical=True)))
encoder = Encoder(("renewals", "branch"), {"branch": ("Harbour", "Hill")})


def released(folder: Path, name: str, model) -> str:
    manifest = {"kind": "model", "name": name, "as_of": "2024-03-01T00:00:00Z", "threshold": 0.3,
                "encoder": encoder.to_dict(), "features": features.describe()}
    return write_release(folder / "releases", manifest, {}, model, ALLOW).name


def all_released(folder: Path) -> dict[str, str]:
    """The ids of two honest models, one that does harm to some and one to all, and two versions of the rule."""
    import pandas as pd
    from sklearn.ensemble import HistGradientBoostingClassifier
    frame = pd.DataFrame({"renewals": [0.0, 1.0, 2.0, 3.0] * 20, "branch": ["Hill", "Harbour"] * 40})
    trees = HistGradientBoostingClassifier(max_iter=2).fit(encoder.encode(frame), [0, 0, 1, 1] * 20)
    found = {name: released(folder, name, trees) for name in ("honest", "other")}
    found |= {name: released(folder, name, Harmful(name == "always")) for name in ("planted", "always")}
    for name, version in (("rule", "1.0"), ("newer", "2.0")):
        described = {"kind": "rule", "name": rule.name, "version": version, "threshold": 2.0, "rule": rule.sha}
        found[name] = write_release(folder / "releases", described, {}).name
    return found


class Library:
    """A workspace with these releases, and a log."""
    def __init__(self, folder: Path, made: Path, url: str | Path = ""):
        shutil.copytree(made / "releases", folder / "releases")
        self.log, self.releases = ServingLog(url or folder / "serving.db"), Releases(Workspace(folder), rule, lambda: features, allow=ALLOW)
        self.written, self.load = 0, cache(lambda id: Release.load(folder / "releases" / id, rule=rule))

    def answer(self, rows: int, id: str, renewals: int | None = None, **changes) -> list[str]:
        """So many more predictions, as the app stores them."""
        new = [self.row(self.written + n, id, renewals) | changes for n in range(rows)]
        self.written += rows
        return self.log.database.commit(new)

    def row(self, number: int, id: str, renewals: int | None) -> dict:
        release, renewals, at = self.load(id), number % 4 if renewals is None else renewals, datetime(2024, 3, 1, tzinfo=UTC)
        at += timedelta(seconds=number)
        request = Loan.model_construct(reader=f"5e8f{number}", branch="Hill", due=at, renewals=renewals)
        values = {"renewals": renewals, "branch": "Hill"}
        score = 0.5 if renewals in HARM else float(release.score_one(values))
        return prediction_row(
            at, id=f"{number:032x}", key=f"5e8f{number}", decision_time=at, release=id, kind=release.kind, score=score,
            decision=release.decision(score), request=request.model_dump_json(),
            features=values if release.kind == "model" else vars(request))

    def shadow(self, candidate: str, stable: str, **limits) -> Shadow:
        return Shadow(self.log, self.releases, Pair(candidate, stable), library, ShadowLimits(**limits))
