"""What a project takes of the template: the same from the checkout and from the wheel that stage 10 builds."""
import json
import subprocess
import sys
import zipfile

from helpers import ROOT, environment, tracked

from mlops_lifecycle.build import build_wheel
from mlops_lifecycle.core.projects.template_files import read_template, write_files


def test_the_wheel_carries_what_the_checkout_has(tmp_path):
    wheel, here = build_wheel(ROOT, tmp_path), read_template(ROOT)
    assert read_template(wheel) == here
    with zipfile.ZipFile(wheel) as archive: archive.extractall(tmp_path / "installed")
    look = "import json; from mlops_lifecycle.core.projects.template_files import read_template as r; t = r()\n" \
           "print(json.dumps([t.version, sorted(t.files), __import__('mlops_lifecycle').__file__]))"
    done = subprocess.run([sys.executable, "-c", look], cwd=tmp_path, env=environment(tmp_path / "installed"),
                          capture_output=True, text=True, check=True)
    version, files, module = json.loads(done.stdout)
    assert (version, files) == (here.version, sorted(here.files)) and module.startswith(str(tmp_path))


def test_a_project_takes_everything_but_what_is_of_the_template_alone():
    files = read_template(ROOT).files
    left = set(tracked()) - files.keys()
    notebooks = {path for path in left if path.startswith("nbs/") and not path.startswith("nbs/examples/")}
    assert notebooks == {"nbs/images/first_run.svg", "nbs/jp_app_launcher_tutorial.yaml", "nbs/tutorial.ipynb"}
    tops = {"/".join(path.split("/")[:2]) if path.startswith("tests/") else path.split("/")[0] for path in left}
    # README and package are made from the notebooks
    assert tops == {"README.md", "benchmarks", "mlops_lifecycle", "nbs", "tests/template"}


def test_a_wheel_of_a_project_carries_no_notebooks(tmp_path):
    project = tmp_path / "project"
    write_files(read_template(ROOT).files, project)
    (project / "README.md").write_text("")
    (project / "mlops_lifecycle" / "core" / "projects").mkdir(parents=True)
    for name in ("__init__.py", "core/projects/template_wheel.py"):
        (project / "mlops_lifecycle" / name).write_bytes((ROOT / "mlops_lifecycle" / name).read_bytes())
    with zipfile.ZipFile(build_wheel(project, tmp_path / "wheel")) as archive:
        assert not [name for name in archive.namelist() if name.endswith((".ipynb", ".ini", ".lock"))]
