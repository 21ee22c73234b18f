"""The Open Inference Protocol, mostly with the stock client, on a running canary: a version is named only if it decided."""
import contextlib
import json
from dataclasses import replace

import numpy as np
import pytest
from test_http import GOOD, PLAIN, add_model, ask, served, settings, trial
from under_load import postgresql
from slots import put_in_slots

from mlops_lifecycle.core.serving import inference_protocol as protocol
from mlops_lifecycle.core.serving.store import ServingLog
from mlops_lifecycle.formulate import problem
from mlops_lifecycle.serving import create_app

triton = pytest.importorskip("tritonclient.http")
RULE, NAME = problem.rule.version, problem.name
LONG_AGO = GOOD | {"scheduled_departure": "2012-07-01T05:45:00-04:00"}  # nothing is known by then, so no model may decide
NUMPY = {"BYTES": np.object_, "INT64": np.int64, "FP64": np.float64, "BOOL": np.bool_}


class Desk:
    """An app with the rule in its stable slot and a model as its canary, the stock client, and the log."""
    def __init__(self, app, api, log, model):
        self.app, self.api, self.log, self.version = app, api, log, model.removeprefix("model-")
        self.model, self.client = model, triton.InferenceServerClient(f"127.0.0.1:{api.base_url.port}")

    def serves(self, stable, canary=None, share=0.0):
        """Deploy behind the app's back, and let it take notice."""
        now = self.log.deployment.get()
        if (now["stable"], now["canary"], now["share"]) == (stable, canary, share): return
        generation = put_in_slots(self.log, stable=stable, canary=canary, share=share).generation
        while self.api.get("/v1/model").json()["generation"] != generation: pass

    def inputs(self, rows, binary=False):
        """The rows as the client's tensors, of the types that the metadata names."""
        found = []
        for tensor in self.client.get_model_metadata(NAME)["inputs"]:
            if any(row.get(tensor["name"]) is None for row in rows): continue
            one = triton.InferInput(tensor["name"], [len(rows)], tensor["datatype"])
            values = np.array([row[tensor["name"]] for row in rows], dtype=NUMPY[tensor["datatype"]])
            one.set_data_from_numpy(values, binary_data=binary)
            found.append(one)
        return found

    def infer(self, rows=1, version="", row=GOOD, binary=False, outputs=None):
        """`model_version` of the answer, and each output as a list."""
        if outputs is None and not binary: outputs = [triton.InferRequestedOutput(name, binary_data=False) for name in OUTPUTS]
        rows = [row] * rows if isinstance(rows, int) else rows
        found = self.client.infer(NAME, self.inputs(rows, binary), model_version=version, request_id="7", outputs=outputs)
        said = found.get_response()
        assert (said["id"], said["model_name"]) == ("7", NAME)
        def text(value): return value.decode() if isinstance(value, bytes) else value
        given = {tensor["name"]: [*map(text, found.as_numpy(tensor["name"]).tolist())] for tensor in said["outputs"]}
        return said.get("model_version"), given

    def stored(self, ids):
        """What the log says of these predictions: arm, model and version of each."""
        rows = map(self.log.predictions.get, ids)
        return [tuple(row[name] for name in ("arm", "model", "version")) for row in rows]

    def count(self): return self.log.counts()["predictions"]


OUTPUTS = "prediction_id", "score", "decision", "threshold", "review", "model", "version"


@pytest.fixture(scope="module", params=["SQLite", "PostgreSQL"])
def desk(request, tmp_path_factory):
    with contextlib.ExitStack() as stack:
        with pytest.MonkeyPatch.context() as patch:  # only while it is made: other apps have logs of their own
            if request.param == "PostgreSQL": patch.setenv("MLOPS_DATABASE", stack.enter_context(postgresql()))
            workspace = trial(tmp_path_factory.mktemp("protocol"))
            model = add_model(workspace)
            app = create_app(settings(max_body_bytes=100_000, max_batch=300), workspace)
            log = stack.enter_context(contextlib.closing(ServingLog(workspace.serving_db)))
        found = Desk(app, stack.enter_context(served(app)), log, model)
        stack.enter_context(contextlib.closing(found.client))
        yield found


@pytest.fixture
def canary(desk):
    """Half of the requests are the canary's."""
    desk.serves(f"rule-{RULE}", desk.model, 0.5)
    return desk


def test_a_version_that_is_named_decides_every_row_and_the_log_says_so(canary):
    assert canary.client.get_model_metadata(NAME)["versions"] == [RULE, canary.version]
    for share in (0.5, 0.0, 1.0):  # a canary without a share can be asked, too
        canary.serves(f"rule-{RULE}", canary.model, share)
        for arm, model, version in (("stable", problem.rule.name, RULE), ("canary", "small", canary.version)):
            assert canary.client.is_model_ready(NAME, version)
            assert canary.client.get_model_metadata(NAME, version)["versions"] == [version]
            said, given = canary.infer(20, version)
            assert (said, set(given["version"]), set(given["model"])) == (version, {version}, {model})
            assert set(canary.stored(given["prediction_id"])) == {(arm, model, version)}


def test_without_a_version_each_row_says_what_decided_it(canary):
    said, given = canary.infer([GOOD | {"flight": number} for number in range(1, 65)])  # each has an arm of its own
    assert set(given["version"]) == {RULE, canary.version} and said is None
    arms = {RULE: "stable", canary.version: "canary"}
    assert canary.stored(given["prediction_id"]) == [(arms[v], m, v) for m, v in zip(given["model"], given["version"])]
    said, given = canary.infer()
    assert [said] == given["version"]


def test_where_the_rule_stands_in_it_is_said_and_a_version_that_cannot_decide_is_an_error(desk):
    desk.serves(desk.model)
    said, given = desk.infer(3, row=LONG_AGO)
    assert (said, set(given["model"]), set(given["review"])) == (RULE, {"rule"}, {True})
    assert set(desk.stored(given["prediction_id"])) == {("stable", "rule", RULE)}
    before = desk.count()
    with pytest.raises(triton.InferenceServerException, match="far too old or not there") as refused: desk.infer(3, desk.version, LONG_AGO)
    assert refused.value.status() == "503" and desk.count() == before
    with pytest.raises(triton.InferenceServerException, match="no such model or version"): desk.infer(3, RULE)  # it is in no slot
    assert desk.infer(3, desk.version)[0] == desk.version


def test_a_canary_that_fails_is_not_named_in_the_answer_of_another(canary):
    canary.serves(f"rule-{RULE}", canary.model, 1.0)
    said, given = canary.infer(3, row=LONG_AGO)
    assert (said, set(given["model"])) == (RULE, {problem.rule.name})
    assert set(canary.stored(given["prediction_id"])) == {("canary", problem.rule.name, RULE)}
    assert {canary.log.predictions.get(id)["error"] for id in given["prediction_id"]} == {"TooOld"}
    with pytest.raises(triton.InferenceServerException, match="far too old"): canary.infer(3, canary.version, LONG_AGO)


def test_one_row_that_is_refused_refuses_all_and_nothing_is_stored(canary):
    before = canary.count()
    for bad in (GOOD | {"origin": "SFO"}, GOOD | {"carrier": "no carrier"}):
        with pytest.raises(triton.InferenceServerException): canary.client.infer(NAME, canary.inputs([GOOD] * 150 + [bad]))
    with pytest.raises(triton.InferenceServerException, match="required"): canary.client.infer(NAME, canary.inputs([GOOD])[:1])
    assert canary.count() == before


def test_what_the_metadata_announces_works_as_json_and_as_bytes(canary):
    """Every input and output in its datatype, each output alone, and the extension for tensors as bytes."""
    described, server = canary.client.get_model_metadata(NAME), canary.client.get_server_metadata()
    assert canary.client.is_server_live() and canary.client.is_server_ready() and server["name"] == "mlops_lifecycle"
    assert server["extensions"] == ["binary_tensor_data"]
    assert [tensor["name"] for tensor in described["outputs"]] == list(OUTPUTS)
    datatypes = {tensor["name"]: tensor["datatype"] for tensor in described["outputs"]}
    canary.serves(f"rule-{RULE}")
    alone = ask(canary.api, PLAIN).json()
    for binary in (False, True):
        _, given = canary.infer(2, RULE, binary=binary)
        assert list(given) == list(OUTPUTS) and given["score"] == [alone["score"]] * 2
        for name in OUTPUTS:
            wanted = triton.InferRequestedOutput(name, binary_data=binary)
            found = canary.client.infer(NAME, canary.inputs([GOOD], binary), outputs=[wanted])
            tensor, = found.get_response()["outputs"]
            assert (tensor["datatype"], tensor["shape"], "data" in tensor) == (datatypes[name], [1], not binary)
            assert type(alone[name]) in (str, int, float, bool) and found.as_numpy(name).dtype == NUMPY[datatypes[name]]
    assert canary.api.get("/v2/models/statistics").status_code == 404  # an extension that is not announced
    for call in (canary.client.get_model_config, canary.client.get_inference_statistics):
        with pytest.raises(triton.InferenceServerException): call(NAME)
    assert not canary.client.is_model_ready("others") and not canary.client.is_model_ready(NAME, "9")


def tensors(**changes):
    """A request of one row; and changes to its first tensor."""
    types = {str: "BYTES", int: "INT64", float: "FP64"}
    found = [{"name": n, "datatype": types[type(v)], "shape": [1], "data": [v]} for n, v in GOOD.items() if v is not None]
    return {"inputs": [found[0] | changes, *found[1:]]}


INFER, OWN = f"/v2/models/{NAME}/infer", f"/v2/models/{NAME}"
REFUSED = {  # status, method, path; content and headers
    "an unknown path": (404, "GET", "/v2/nothing"),
    "an unknown model": (404, "GET", "/v2/models/others"),
    "an unknown version": (404, "POST", f"{OWN}/versions/9/infer", tensors()),
    "an unknown version's readiness": (404, "GET", f"{OWN}/versions/9/ready"),
    "a path upwards": (404, "GET", "/v2/models/..%2Fx"),
    "a slash too many": (404, "GET", "/v2/"),
    "no model": (404, "GET", "/v2/models"),
    "another method": (405, "GET", INFER),
    "a method that the server has not": (405, "POST", "/v2"),
    "a method that a probe has not": (405, "DELETE", "/v2/health/live"),
    "no JSON": (422, "POST", INFER, b"{"),
    "not UTF-8": (400, "POST", INFER, b"\xff"),
    "a list": (422, "POST", INFER, b"[]"),
    "nothing": (422, "POST", INFER, b""),
    "a key twice": (422, "POST", INFER, b'{"inputs": [], "inputs": []}'),
    "a body too large": (413, "POST", INFER, b" " * 100_001),
    "too many rows": (413, "POST", INFER, tensors(shape=[301], data=["a"] * 301)),
    "another content type": (415, "POST", INFER, b"{}", {"content-type": "text/plain"}),
    "a compressed body": (415, "POST", INFER, b"{}", {"content-encoding": "gzip"}),
    "a length that is none": (400, "POST", INFER, b"{}", {"inference-header-content-length": "x"}),
    "a length in another script": (400, "POST", INFER, b"{}", {"inference-header-content-length": b"\xb2"}),
    "an unknown datatype": (422, "POST", INFER, tensors(datatype="FP8")),
    "a datatype that is none": (422, "POST", INFER, tensors(datatype="FOO")),
    "no datatype": (422, "POST", INFER, tensors(datatype=None)),
    "an unknown output": (422, "POST", INFER, tensors() | {"outputs": [{"name": "secret"}]}),
    "bytes that are asked for outside of parameters": (
        422, "POST", INFER, tensors() | {"outputs": [{"name": "score", "binary_data": True}]}),
    "an output of an unknown datatype": (422, "POST", INFER, tensors() | {"outputs": [{"name": "score", "datatype": "FOO"}]}),
    "an output twice": (422, "POST", INFER, tensors() | {"outputs": [{"name": "score"}] * 2}),
    "an id that is no text": (422, "POST", INFER, tensors() | {"id": 7}),
    "a flag that is none": (422, "POST", INFER, tensors() | {"parameters": {"binary_data_output": 1}}),
    "a stranger": (401, "GET", OWN, b"", {"host": "evil.example"}),
    "a stranger's rows": (401, "POST", INFER, tensors(), {"host": "evil.example"}),
}


def test_an_output_that_is_asked_for_as_bytes_stands_behind_the_json(canary):
    """Kind 3: wire formats in full; each output, and two of which one is JSON."""
    alone = canary.api.post(INFER, json=tensors() | {"outputs": [{"name": name} for name in OUTPUTS]})
    values = {output["name"]: output["data"] for output in alone.json()["outputs"]}
    assert "inference-header-content-length" not in alone.headers
    for name, datatype in protocol.OUTPUTS.items():
        wanted = [{"name": "threshold"}] * (name != "threshold") + [{"name": name, "parameters": {"binary_data": True}}]
        answer = canary.api.post(INFER, json=tensors() | {"outputs": wanted})
        length = int(answer.headers["inference-header-content-length"])
        output, behind = json.loads(answer.content[:length])["outputs"][-1], answer.content[length:]
        assert output["parameters"] == {"binary_data_size": len(behind)} and "data" not in output
        assert len(found := protocol.from_bytes(datatype, behind)) == 1
        assert name == "prediction_id" or found == values[name]


def test_a_refusal_is_the_protocols_error(canary):
    for name, (status, method, path, *more) in REFUSED.items():
        content, headers = (*more, b"", {})[:2] if len(more) != 1 else (more[0], {})
        if isinstance(content, dict): content = json.dumps(content).encode()
        answer = canary.api.request(method, path, content=content, headers=headers)
        assert (answer.status_code, answer.headers["content-type"]) == (status, "application/json"), name
        assert list(answer.json()) == ["error"] and isinstance(answer.json()["error"], str), name
        assert (status == 405) == ("allow" in answer.headers), name
    assert canary.infer()[1]["version"]


def test_what_cannot_be_answered_at_all_is_the_protocols_error_too(canary, monkeypatch):
    """Nothing is deployed, nobody can decide, too many requests at once, and an error that nobody expected."""
    def infer(): return canary.api.post(INFER, json=tensors())
    def error(answer): return answer.status_code, set(answer.json())
    memory = canary.app.serving.memory
    with monkeypatch.context() as patch:
        patch.setattr(memory, "slots", replace(memory.slots, stable=None))
        paths = INFER, OWN, f"{OWN}/ready", f"{OWN}/versions/{RULE}", f"{OWN}/versions/{RULE}/ready"
        answers = [infer(), *(canary.api.get(path) for path in paths[1:])]
        assert {error(answer)[0] for answer in answers} == {503} and all(set(answer.json()) == {"error"} for answer in answers)
    with monkeypatch.context() as patch:
        patch.setattr(canary.app, "inside", 1_000_000)
        assert error(infer()) == error(canary.api.get("/v2")) == (503, {"error"})
        assert canary.client.is_server_live()
    def broken(*_): raise RuntimeError("row of reader R0001")
    with monkeypatch.context() as patch:
        patch.setattr(canary.app.serving.batches, "all_of", broken)
        assert error(infer()) == (500, {"error"}) and "R0001" not in infer().text
    with monkeypatch.context() as patch:
        patch.setattr(canary.app.serving.decider, "steps", (broken,), raising=False)
        assert error(infer()) == (503, {"error"})
    assert infer().status_code == 200
