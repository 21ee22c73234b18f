# Works in a fresh clone with Python 3.11 or newer, git and make. Everything is installed into .venv, as
# requirements.lock pins it, and into nothing else.
PYTHON ?= python3
UV ?= uv
BIN := .venv/bin
READY := .venv/ready
# OpenMP's threads wait awake for some microseconds only: longer slows a busy machine down thirtyfold, not at all makes small fits take ten times as long.
export GOMP_SPINCOUNT := 1000
# Memory that one thread frees another may use: with an area for each thread, what was used once stays taken.
export MALLOC_ARENA_MAX := 1

.PHONY: tracer help run test lab serve report bench lock readme browser database alerts clean-tree

help:    ## this list
	@sed -n 's/^\([a-z-]*\):[^#]*## \(.*\)/make \1\t\2/p' Makefile

run: $(READY)    ## the whole life cycle, through papermill
	$(BIN)/mlops run

# A project made from the template has neither its tests nor its benchmarks, and needs no server for them.
TEMPLATE := $(wildcard tests/template)
# Two workers share the cores, so each has one thread.
test: export OMP_NUM_THREADS := 1
test: $(READY) $(if $(TEMPLATE),tracer browser database alerts) clean-tree    ## everything: exported code, lessons, whole runs, browser
	$(BIN)/ruff check mlops_lifecycle tests $(wildcard benchmarks)
	$(BIN)/ruff check --isolated --select F821 nbs    # cells that only a run executes, too, know their names
	$(BIN)/nbdev-test
	$(BIN)/python -m pytest tests/project/test_lessons.py --numprocesses 2 --cov --cov-fail-under=80
	$(BIN)/python -m pytest tests --ignore=tests/project/test_lessons.py --numprocesses 2 --dist loadfile --no-loadscope-reorder --durations=30 --durations-min=20 --cov --cov-append --cov-fail-under=$(if $(TEMPLATE),95,80)

# Saving a notebook exports it (nbs/core/pipeline/export_on_save.ipynb), and nbs/jp_app_launcher*.yaml are entries of the launcher,
# whose package brings a proxy to this machine's ports that nothing here needs. LAB takes further options of Jupyter.
lab: export JUPYTER_APP_LAUNCHER_PATH := nbs
lab: $(READY)    ## JupyterLab on the notebooks, a tutorial first; saving one exports it
	$(BIN)/jupyter lab --ServerApp.jpserver_extensions=mlops_lifecycle.core.pipeline.export_on_save=True \
	  --ServerApp.jpserver_extensions=jupyter_server_proxy=False \
	  --LabApp.default_url=/lab/tree/$(firstword $(wildcard nbs/tutorial.ipynb) nbs/index.ipynb) $(if $(filter 0,$(shell id -u)),--allow-root) $(LAB)

# One request is one row: more threads than one only wait for each other.
serve: export OMP_NUM_THREADS := 1
serve: $(READY)    ## the API on what is deployed
	$(BIN)/mlops serve

report: $(READY)    ## the site again, from what is there
	$(BIN)/mlops report

bench: $(READY)    ## every benchmark (hours)
	@for figures in benchmarks/*.py; do $(BIN)/python $$figures || exit 1; done

readme: $(READY)    ## README.md from nbs/index.ipynb, and the hooks in CONTRIBUTING.md
	$(BIN)/python -c 'from mlops_lifecycle.core.pipeline import notebook_sync, yours; notebook_sync.write_readme("."); yours.write_hook_table(".")'

# Extras are kept: pip, asked for coverage[toml], looks past a pin of coverage alone as soon as there is a newer one.
PIN := pip compile --quiet --universal --no-strip-extras --python-version 3.11 --generate-hashes --no-emit-index-url --custom-compile-command "make lock"
lock:    ## requirements.lock, and its part that serves, from pyproject.toml
	$(UV) $(PIN) --all-extras --output-file requirements.lock pyproject.toml
	$(UV) $(PIN) --extra serve --constraint requirements.lock --output-file deploy/requirements.lock pyproject.toml

$(READY): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; v = sys.version_info; v >= (3, 11) or sys.exit("Python 3.11 or newer is needed, %s is %d.%d: name another one, for example make run PYTHON=python3.12" % (sys.executable, v[0], v[1]))'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

# One test holds up a server's disk, with strace.
tracer:
	@command -v strace > /dev/null || if [ "$$(id -u)" = 0 ] && command -v apt-get > /dev/null; \
	then apt-get update -qq && apt-get install -y -qq --no-install-recommends strace; \
	else echo "make test needs strace: sudo apt-get install -y strace" >&2; exit 1; fi

# The tests look at the site and at JupyterLab through Chromium, which comes from the system.
browser:
	@command -v chromium > /dev/null || if [ "$$(id -u)" = 0 ] && command -v apt-get > /dev/null; \
	then apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium; \
	else echo "make test needs Chromium: sudo apt-get install -y chromium" >&2; exit 1; fi

# They also read a real PostgreSQL, as a table and through the changes that wal2json writes out.
database:
	@ls /usr/lib/postgresql/*/lib/wal2json.so > /dev/null 2>&1 || if [ "$$(id -u)" = 0 ] && command -v apt-get > /dev/null; \
	then apt-get update -qq && apt-get install -y -qq --no-install-recommends postgresql-15 postgresql-15-wal2json; \
	else echo "make test needs PostgreSQL with wal2json: sudo apt-get install -y postgresql-15 postgresql-15-wal2json" >&2; exit 1; fi

# A Prometheus scrapes the running app, and promtool checks and plays the rules of deploy/monitoring.
alerts:
	@command -v promtool > /dev/null || if [ "$$(id -u)" = 0 ] && command -v apt-get > /dev/null; \
	then apt-get update -qq && apt-get install -y -qq --no-install-recommends prometheus; \
	else echo "make test needs Prometheus: sudo apt-get install -y prometheus" >&2; exit 1; fi

# What git would see of this folder; the index is one of its own, so nothing is staged.
TREE := GIT_INDEX_FILE=.venv/tree sh -c 'git add --all . && git write-tree'

# Notebooks are clean, and package and README are what they say: making them again changes nothing.
clean-tree: $(READY)
	@before=$$($(TREE)) && $(BIN)/nbdev-clean && $(BIN)/nbdev-export && $(MAKE) --no-print-directory readme && after=$$($(TREE)) && \
	git diff-tree -r --exit-code --stat $$before $$after || { echo "these files are not what the notebooks say; they have just been made again: look at them and commit" >&2; exit 1; }
