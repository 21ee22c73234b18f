"""Free text over HTTP: its words have the same values, and a model of them the same scores, in training, in the app and for files."""
from contextlib import closing

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from pydantic import Field
from sklearn.linear_model import LogisticRegression
from test_http import served, settings

from mlops_lifecycle.core.models.features import Encoder, FeatureSet, columns_of
from mlops_lifecycle.core.models.release import Release, write_release
from mlops_lifecycle.core.models.word_features import word_features
from mlops_lifecycle.core.problem.definition import Entity, Problem, Rule
from mlops_lifecycle.core.serving.batch import requests_of, score_requests
from mlops_lifecycle.core.serving.ledger import Ledger
from mlops_lifecycle.core.serving.predictor import trial_workspace
from mlops_lifecycle.core.serving.store import ServingLog
from mlops_lifecycle.plan import plan
from mlops_lifecycle.serving import create_app

FEATURES = FeatureSet(word_features("remark", ("late", "défaut", "straße", "2nd", "angry", "has_been")))
TEXTS = ["Late again!", "LATE, and lately angry.", "Défaut d’impression", "in der STRASSE, straße", "the 2nd, not the 22nd", "it has_been",
         "", " ", "angry\nlate\tangry", "ÄRGER 🙂 late🙂", "late" * 1000, "a-late", "late_", "İstanbul angry", None]


class Complaint(Entity):
    """A complaint."""
    number: int = Field(examples=[1, 2])
    remark: str | None = Field(default=None, max_length=20_000, examples=["late again"])


def never(columns): return np.zeros(np.shape(columns["number"]))


COMPLAINTS = Problem("complaints", "complaint", "justified", "call", "euro a complaint", Complaint, Rule("never", "1.0", never, 0.5),
                     key=("number",))


@pytest.fixture(scope="module")
def release(tmp_path_factory) -> tuple[Release, object]:
    """A model of words that serves every request."""
    workspace = trial_workspace(tmp_path_factory.mktemp("words"), COMPLAINTS, plan.model_dump(mode="json"))
    table = pd.DataFrame(FEATURES.compute(columns_of(pd.DataFrame({"remark": TEXTS}))))
    encoder = Encoder.fit(table, FEATURES.features)
    model = LogisticRegression().fit(np.nan_to_num(encoder.encode(table)), np.arange(len(TEXTS)) % 2)
    manifest = {"kind": "model", "name": "words", "decides": "binary", "as_of": "2024-03-01", "threshold": 0.5,
                "encoder": encoder.to_dict(), "features": FEATURES.describe()}
    folder = write_release(workspace.releases, manifest, {}, model)
    with closing(ServingLog(workspace.serving_db)) as log: Ledger(log).trial(folder.name)
    return Release.load(folder, COMPLAINTS.rule), workspace


def test_a_request_a_table_and_a_file_have_the_same_words_and_scores(release):
    one, workspace = release
    table = pd.DataFrame({"number": range(len(TEXTS)), "remark": TEXTS})[:-1]  # a linear model takes no missing value
    trained = pd.DataFrame(FEATURES.compute(columns_of(table)))
    app = create_app(settings(), workspace, COMPLAINTS, FEATURES)
    with served(app) as client:
        said = [client.post("/v1/predict", json=row).raise_for_status().json() for row in table.to_dict("records")]
        batch = client.post("/v1/predict/batch", json={"requests": table.to_dict("records")}).raise_for_status().json()["answers"]
        stored = pd.DataFrame([client.get(f"/v1/predictions/{answer['prediction_id']}").json()["features"] for answer in said])
    assert {answer["model"] for answer in said} == {"words"}
    pd.testing.assert_frame_equal(stored[FEATURES.names].astype(float), trained)
    whole = score_requests(requests_of(pa.Table.from_pandas(table), Complaint), COMPLAINTS, workspace, lambda: FEATURES)
    scores = [answer["score"] for answer in said]
    assert scores == [answer["score"] for answer in batch] == whole.score.tolist() == one.score(trained).tolist()
    assert trained.remark_has_late.tolist()[:2] == [1, 1] and trained[["remark_has_2nd", "remark_has_straße"]].sum().tolist() == [1, 1]


def test_a_missing_text_has_neither_words_nor_a_length():
    assert np.isnan(list(FEATURES.compute({"remark": np.nan}).values())).all()
    assert pd.DataFrame(FEATURES.compute(columns_of(pd.DataFrame({"remark": TEXTS})))).iloc[-1].isna().all()
