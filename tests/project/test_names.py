"""The distribution may have a name of its own; the package that it installs is called as releases and updates know it."""
import tomllib
import zipfile

from helpers import ROOT, copy_project

from mlops_lifecycle.build import build_wheel, check_wheel, package_of
from mlops_lifecycle.core.foundation.extras import distribution_extras, install_hint
from mlops_lifecycle.core.pipeline.notebook_sync import stale

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
NAME = PROJECT["project"]["name"]


def test_the_imported_package_is_pinned_apart_from_the_name_of_the_distribution():
    assert PROJECT["tool"]["nbdev"]["lib_path"] == "mlops_lifecycle"
    assert package_of(ROOT) == ROOT / "mlops_lifecycle"


def test_extras_that_take_in_another_name_the_distribution_as_it_is_called():
    extras = PROJECT["project"]["optional-dependencies"]
    names = {line.partition("[")[0] for lines in extras.values() for line in lines if "[serve]" in line}
    assert names <= {NAME}


def test_a_wheel_of_another_name_installs_the_same_package(tmp_path):
    copy = copy_project(tmp_path / "copy")
    text = (copy / "pyproject.toml").read_text()
    renamed = text.replace(f'name = "{NAME}"', 'name = "south-library"').replace(f'"{NAME}[', '"south-library[')
    (copy / "pyproject.toml").write_text(renamed)
    wheel = build_wheel(copy, tmp_path / "wheel")
    assert wheel.name.startswith("south_library-") and check_wheel(wheel, package_of(copy)) > 50
    with zipfile.ZipFile(wheel) as archive:
        tops = {name.partition("/")[0] for name in archive.namelist()}
        about = next(name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        metadata = archive.read(about).decode()
    assert {top for top in tops if not top.endswith(".dist-info")} == {"mlops_lifecycle"}
    assert "\nName: south-library\n" in metadata
    assert distribution_extras(package_of(copy))[0] == "south-library"
    assert install_hint("web", package_of(copy)) == 'pip install "south-library[web]"'
    assert stale("mlops_lifecycle.build", root=copy) == []  # exported as before
