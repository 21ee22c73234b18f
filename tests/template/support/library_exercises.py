"""What each library does in a kernel; `found` is compared between kernels. Each part is a cell, and the parts build on each other."""

to = ""


# %% begin
import hashlib
import io
import json
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd

draw, folder, found = np.random.default_rng(0), Path(tempfile.mkdtemp()), {}
X = pd.DataFrame(draw.normal(size=(4_000, 8)), columns=list("abcdefgh"))
y = (X.a + X.b * X.c + draw.normal(size=4_000) > 0).astype(int)
def digest(value): return hashlib.sha256(np.ascontiguousarray(value).tobytes()).hexdigest()

# %% numpy
m = draw.normal(size=(600, 600))
found['svd'] = digest(np.linalg.svd(m @ m.T)[1].round(6))

# %% pandas
found['groups'] = X.assign(k=y).groupby('k').agg(['mean', 'std']).round(9).to_json()

# %% scipy
from scipy import optimize, stats
found['scipy'] = [round(optimize.minimize(lambda p: ((p - 3) ** 2).sum(), np.zeros(3)).x[0], 4), round(stats.norm.ppf(0.9), 9)]

# %% sklearn
from sklearn.cluster import KMeans
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_score
boosting = HistGradientBoostingClassifier(max_iter=20, random_state=0).fit(X, y)
forest = RandomForestClassifier(20, n_jobs=2, random_state=0).fit(X, y)
line = LogisticRegression().fit(X, y)
found['sklearn'] = [digest(one.predict_proba(X).round(9)) for one in (boosting, forest, line)]
found['clusters'] = KMeans(3, n_init=2, random_state=0).fit_predict(X).tolist()[:50]
found['folds'] = cross_val_score(LogisticRegression(), X, y, cv=2, n_jobs=2).round(9).tolist()

# %% pyarrow
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.dataset
import pyarrow.parquet as pq
table = pa.Table.from_pandas(X)
pq.write_table(table, folder / 'x.parquet', row_group_size=500)
X.to_csv(folder / 'x.csv', index=False)
back = pa.dataset.dataset(folder / 'x.parquet').to_table(filter=pc.field('a') > 0)
found['arrow'] = [back.num_rows, pa.csv.read_csv(folder / 'x.csv').num_rows, pq.read_table(folder / 'x.parquet').equals(table)]

# %% deltalake
from deltalake import DeltaTable, write_deltalake
for _ in range(4): write_deltalake(folder / 'delta', table, mode='append')
found['delta'] = [DeltaTable(folder / 'delta').version(), DeltaTable(folder / 'delta', version=1).to_pyarrow_table().num_rows]

# %% great_expectations
import great_expectations as gx
import great_expectations.expectations as gxe
context = gx.get_context(mode='ephemeral')
batch = context.data_sources.add_pandas('p').add_dataframe_asset('x').add_batch_definition_whole_dataframe('b')
result = batch.get_batch({'dataframe': X}).validate(gxe.ExpectColumnMeanToBeBetween(column='a', min_value=-1, max_value=1))
found['gx'] = bool(result.success)

# %% mlflow
import mlflow
mlflow.set_tracking_uri(f'sqlite:///{folder}/mlflow.db')
with mlflow.start_run() as run: mlflow.log_metric('cost', 0.5); mlflow.log_param('seed', 1)
found['mlflow'] = mlflow.get_run(run.info.run_id).data.metrics

# %% skops
import skops.io
same = skops.io.loads(skops.io.dumps(line), trusted=[])
found['skops'] = bool((same.predict(X) == line.predict(X)).all())

# %% treelite
import treelite
model = treelite.sklearn.import_model(boosting)
found['treelite'] = digest(treelite.gtil.predict(model, X.to_numpy(), nthread=2).round(6))

# %% fairlearn
from fairlearn.metrics import MetricFrame, selection_rate
found['fair'] = MetricFrame(metrics=selection_rate, y_true=y, y_pred=line.predict(X), sensitive_features=X.a > 0).by_group.round(6).tolist()

# %% pycanon
from pycanon import anonymity
found['k'] = int(anonymity.k_anonymity(pd.DataFrame({'q': [1, 1, 2, 2]}), ['q']))

# %% sqlalchemy
import sqlalchemy as sa
engine = sa.create_engine(f'sqlite:///{folder}/log.db', connect_args={'timeout': 30})
t = sa.Table('t', sa.MetaData(), sa.Column('n', sa.Integer, primary_key=True))
t.metadata.create_all(engine)
def write(n):
    with engine.begin() as c: c.execute(t.insert(), {'n': n})
with ThreadPoolExecutor(4) as pool: list(pool.map(write, range(40)))
with engine.connect() as c: found['rows'] = c.execute(sa.select(sa.func.sum(t.c.n))).scalar()

# %% fastapi
import fastapi
import fastapi.testclient
app = fastapi.FastAPI()
@app.get('/double')
def double(n: int): return {'n': 2 * n}
with fastapi.testclient.TestClient(app) as client: found['app'] = [client.get('/double', params={'n': n}).json()['n'] for n in range(20)]

# %% starlette
from starlette.responses import JSONResponse
found['starlette'] = JSONResponse({'a': 1}).body.decode()

# %% uvicorn
import socket
import uvicorn
here = socket.create_server(('127.0.0.1', 0))
server = uvicorn.Server(uvicorn.Config(app, log_level='error'))
serving = threading.Thread(target=server.run, kwargs={'sockets': [here]})
serving.start()
while not server.started: pass
url = f'http://127.0.0.1:{here.getsockname()[1]}/double'

# %% httpx
import httpx
with httpx.Client() as client, ThreadPoolExecutor(4) as pool:
    found['http'] = sum(pool.map(lambda n: client.get(url, params={'n': n}).json()['n'], range(60)))

# %% requests
import requests
found['requests'] = requests.get(url, params={'n': 4}, timeout=10).json()
server.should_exit = True
serving.join()

# %% psutil
import psutil

found['processor time'] = psutil.Process().cpu_times().user > 0

# %% prometheus_client
import prometheus_client as prom
registry = prom.CollectorRegistry()
prom.Counter('asked', 'x', registry=registry).inc(3)
found['metrics'] = 'asked_total 3.0' in prom.generate_latest(registry).decode()

# %% confluent_kafka
from confluent_kafka import Consumer, Producer
sender = Producer({'test.mock.num.brokers': 1})
brokers = next(iter(sender.list_topics(timeout=20).brokers.values()))
where = f'{brokers.host}:{brokers.port}'
for n in range(20): sender.produce('loans', str(n))
sender.flush(20)
reader = Consumer({'bootstrap.servers': where, 'group.id': 'g', 'auto.offset.reset': 'earliest'})
reader.subscribe(['loans'])
got = []
while len(got) < 20:
    m = reader.poll(20)
    assert m and not m.error(), m and m.error()
    got.append(int(m.value()))
reader.close()
found['kafka'] = sorted(got)

# %% matplotlib
import matplotlib.pyplot as plt
fig, ax = plt.subplots()
ax.plot(X.a[:50])
ax.set_title('loans')
picture = io.BytesIO()
fig.savefig(picture, format='png', metadata={'Software': None})
plt.close(fig)
found['picture'] = hashlib.sha256(picture.getvalue()).hexdigest()

# %% pydantic
import pydantic
class Loan(pydantic.BaseModel): days: int
found['pydantic'] = Loan.model_validate_json('{"days": 21}').days

# %% pydantic_core
from pydantic_core import from_json
found['core'] = from_json('[1, 2]')

# %% jinja2
import jinja2
found['jinja'] = jinja2.Template('{{ n }} books').render(n=3)

# %% markupsafe
import markupsafe
found['markup'] = str(markupsafe.escape('<b>'))

# %% nbformat
import nbformat
from nbformat.v4 import new_code_cell, new_notebook
notebook = new_notebook(cells=[new_code_cell('1 + 1', id='a')])
found['nbformat'] = len(nbformat.writes(notebook)) > 0

# %% nbconvert
from nbconvert.exporters import MarkdownExporter
found['nbconvert'] = '1 + 1' in MarkdownExporter().from_notebook_node(notebook)[0]

# %% nbdev
import nbdev.config
import nbdev.export
found['nbdev'] = callable(nbdev.export.nb_export)

# %% fastcore
from fastcore.test import test_eq
test_eq(1, 1)

# %% IPython
from IPython.display import HTML
found['html'] = HTML('<b>a</b>').data

# %% ipywidgets
import ipywidgets
found['slider'] = ipywidgets.IntSlider(value=3).value

# %% packaging
from packaging.requirements import Requirement
found['requirement'] = Requirement('pandas>=3').name

# %% packageurl
from packageurl import PackageURL
found['purl'] = str(PackageURL('pypi', None, 'pandas', '3.0'))

# %% cyclonedx
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component
found['bom'] = len(Bom(components=[Component(name='pandas', version='3.0')]).components)

# %% setuptools
from setuptools import Distribution
found['distribution'] = Distribution({'name': 'loans'}).get_name()

# %% end
import multiprocessing
found_in = {"forked": multiprocessing.parent_process() is not None, "found": found}
Path(to).write_text(json.dumps(found_in, default=float))
