"""The data stages with what this project defines, as functions of their data alone."""
from mlops_lifecycle.collect import Bronze, collect
from mlops_lifecycle.core.data.hooks import CollectHooks, CurateHooks
from mlops_lifecycle.core.models.feature_hooks import TransformHooks
from mlops_lifecycle.curate import Silver, curate
from mlops_lifecycle.formulate import problem
from mlops_lifecycle.transform import Gold, transform

DECLARED, CURATED, TRANSFORMED = CollectHooks.of_project(), CurateHooks.of_project(), TransformHooks.of_project()


def collect_own(sources, root) -> Bronze: return collect(sources, root, DECLARED)
def curate_own(bronze, sources, pseudonyms, as_of=None) -> Silver: return curate(bronze, sources, pseudonyms, DECLARED, CURATED, as_of)
def transform_own(silver, as_of) -> Gold: return transform(silver, as_of, problem, TRANSFORMED)
