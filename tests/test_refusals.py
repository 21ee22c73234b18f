"""What is refused at once, and the gates: one of each wheel, seen failing on what really has the fault."""
import pytest
from conftest import mlops

REFUSED = {
    "a stage": (["run", "lend"], {}, ['unknown stage "lend"', "plan, formulate, collect"]),
    "a wheel": (["run", "--wheel", "cog"], {}, ['unknown wheel "cog"', "data, dev, ml, ops"]),
    "nothing in between": (["run", "--from", "train", "--to", "curate"], {}, ["train to curate"]),
    "a parameter": (["run", "train", "plan", "-p", "sampel=10"], {}, ['"sampel"', "as_of, sample, seed"]),
    "a name that is code": (["run", "-p", "x=1; __import__('os').mkdir('here')=1"], {}, ['"x"']),
    "another name that is code": (["run", "-p", "__import__('os').mkdir('here')=1"], {}, ["__import__('os').mkdir('here')"]),
    "a keyword": (["run", "-p", "import=1"], {}, ['"import"']),
    "a parameter without a value": (["run", "-p", "sample"], {}, ["sample", "NAME=VALUE"]),
    "a parameter's type": (["run", "-p", "sample=many"], {}, ['"sample" must be a whole number', "many"]),
    "a time without a zone": (["run", "-p", "as_of=2013-07-01"], {}, ["as_of", "no time zone"]),
    "a setting": (["run"], {"MLOPS_COSTS__MISED": 3}, ['[costs] has no setting "mised"', "did you mean missed?"]),
    "a section": (["run"], {"MLOPS_COST__MISSED": 3}, ["[cost]", "costs"]),
    "a setting out of range": (["run"], {"MLOPS_COSTS__MISSED": -1}, ['[costs] "missed" must be 0 to 1,000,000', "got -1"]),
    "a missing input": (["run", "train"], {}, ["train reads", "run", "first"]),
    "an option": (["run", "--on-goback", "again"], {}, ["again"]),
}


@pytest.mark.parametrize("what", REFUSED)
def test_it_is_refused_before_a_kernel_starts(what, workspace, tmp_path):
    arguments, settings, words = REFUSED[what]
    done = mlops(*arguments, **settings)
    said = " ".join((done.stdout + done.stderr).split())
    assert done.returncode == 1, said
    assert not [w for w in words if w not in said], said
    assert "Traceback" not in said
    assert not workspace.exists()  # no run, no record, no kernel
