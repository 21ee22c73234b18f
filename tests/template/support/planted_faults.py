"""Plants thirty small faults in the package, one at a time, and counts how many the tests notice.

    python tests/template/support/planted_faults.py            # this work tree
    python tests/template/support/planted_faults.py REV .      # an earlier commit, and this work tree

Each fault is planted in a copy of the exported package, where the text of a line stands in exactly one module. Then
the tests run: the lessons of the notebook that the module comes from, and where these notice nothing, all lessons and
the quick tests. One JSON line a fault, then the counts.
"""
import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
FAULTS = [  # what stands in one module, and what is planted instead
    ('if type == "time" and kind(values.dtype):', 'if type == "time" and not kind(values.dtype):'),
    ('if pair not in CONVERSIONS:', 'if pair in CONVERSIONS:'),
    ('if "" in header: raise SourceError', 'if " " in header: raise SourceError'),
    ('if best is None or position > best:', 'if best is None or position < best:'),
    ('lsn(found[0]) > lsn(cursor["lsn"])', 'lsn(found[0]) >= lsn(cursor["lsn"])'),
    ('body.get("op") not in OPS', 'body.get("operation") not in OPS'),
    ('(value or b"").decode(errors="replace"), str(error))', '(value or b"").decode(errors="replace"), "")'),
    ('if a["label"] not in json.loads(offered[item]):', 'if a["label"] in json.loads(offered[item]):'),
    ('if rows and not {"item", "answer"} <= set(rows[0]):', 'if rows and not {"item"} <= set(rows[0]):'),
    ('if age > pd.Timedelta(fresh):', 'if age < pd.Timedelta(fresh):'),
    ('return int(personal and values.notna().any())', 'return int(personal and values.isna().any())'),
    ('if size < 50_000 or size * gap ** 2 < 2.2:', 'if size < 50_000 or size * gap ** 2 > 2.2:'),
    ('if "alarm" not in event:', 'if "alarm" in event:'),
    ('found["spread"] = abs(np.log(widths[1] / widths[0]))', 'found["spread"] = np.log(widths[1] / widths[0])'),
    ('if width > 64: raise ValueError', 'if width > 128: raise ValueError'),
    ('return 1 / (1 + np.exp(-(calibration["slope"]', 'return 1 / (1 + np.exp((calibration["slope"]'),
    ('wrong = {"missing": listed.keys() - content.keys()', 'wrong = {"missing": set()'),
    ('return costs.needless / (costs.missed + costs.needless)', 'return costs.missed / (costs.missed + costs.needless)'),
    ('and ranked[name] >= limit else ("cost", 1.0)', 'and ranked[name] > limit else ("cost", 1.0)'),
    ('if not 0 <= value < np.inf:', 'if not 0 < value < np.inf:'),
    ('if unknown or not scopes:', 'if unknown:'),
    ('if not message.get("more_body"): return body', 'if message.get("more_body"): return body'),
    ('type(n) is int and 0 <= n <= 10**9 for n in shape', 'type(n) is int and n <= 10**9 for n in shape'),
    ('if not isinstance(inputs, list) or not inputs or', 'if not isinstance(inputs, list) or'),
    ('if set(found) not in ({0, 1}, {"value"}):', 'if set(found) not in ({0, 1}, {"values"}):'),
    ('if value is None or value != value: return ""', 'if value is None: return ""'),
    ('sorted(set(value)) or value[-1] != 100:', 'sorted(set(value)) or value[-1] == 100:'),
    ('time.astimezone(UTC)', 'time.replace(tzinfo=UTC)'),
    ('return ["did not pass"]', 'return []'),
    ('if path not in known: return words', 'if path in known: return words'),
]
QUICK = ("lessons", "sources", "code", "evaluation", "loop", "monitor", "operate")  # none needs a whole life cycle


def checkout(revision: str, folder: Path) -> None:
    """The files of a commit, or of this work tree, in an empty folder."""
    command = ["git", "archive", revision] if revision != "." else ["sh", "-c", "git ls-files -z | tar --null -T - -c"]
    packed = subprocess.run(command, cwd=ROOT, capture_output=True, check=True).stdout
    subprocess.run(["tar", "-x", "-C", folder], input=packed, check=True)


def tests_of(folder: Path, names: tuple[str, ...]) -> list[str]:
    """The files of tests with these names, wherever a commit keeps them; not each commit has all."""
    found = {path.stem: path.relative_to(folder).as_posix() for path in (folder / "tests").rglob("test_*.py")}
    return [found[f"test_{name}"] for name in names if f"test_{name}" in found]


def tests_fail(folder: Path, selected: list[str]) -> bool:
    """Whether the tests notice something; a run that could not start is an error and no finding."""
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *selected]
    environment = os.environ | {"PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    if done.returncode not in (0, 1):
        collected = "ERROR collecting" in done.stdout or "ImportError while loading" in done.stderr
        if not collected: raise RuntimeError(f"the tests did not run:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return done.returncode != 0


def lesson(folder: Path, module: Path) -> str:
    """The test of the lessons that belong to a module."""
    notebook = re.search(r"nbs/(\S+)\.ipynb\.$", module.read_text(encoding="utf-8"), re.M)
    return f"{tests_of(folder, ('lessons',))[0]}::test_lessons_hold_against_the_package[{notebook[1]}]"


def planted(folder: Path, before: str, after: str) -> dict:
    """Plant one fault, run the tests, and take it out again."""
    holders = [path for path in sorted((folder / "mlops_lifecycle").rglob("*.py"))
               if path.read_text(encoding="utf-8").count(before) == 1]
    if len(holders) != 1: raise RuntimeError(f"{before!r} must stand in one module, it stands in {len(holders)}")
    module, text = holders[0], holders[0].read_text(encoding="utf-8")
    module.write_text(text.replace(before, after), encoding="utf-8")
    try: found = tests_fail(folder, [lesson(folder, module)]) or tests_fail(folder, tests_of(folder, QUICK))
    finally: module.write_text(text, encoding="utf-8")
    return {"module": module.relative_to(folder).as_posix(), "planted": after, "noticed": found}


def main() -> None:
    """Plant all faults in each of the trees that are named."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("revisions", nargs="*", default=["."], metavar="REV", help="a commit, or . for this work tree")
    counts = {}
    for revision in parser.parse_args().revisions:
        with tempfile.TemporaryDirectory(prefix="planted-") as folder:
            checkout(revision, Path(folder))
            if tests_fail(Path(folder), tests_of(Path(folder), QUICK)): raise RuntimeError(f"the tests of {revision} fail without a fault")
            found = []
            for before, after in FAULTS:
                found.append(planted(Path(folder), before, after))
                print(json.dumps({"revision": revision} | found[-1]), flush=True)
            counts[revision] = f"{sum(fault['noticed'] for fault in found)} of {len(found)} noticed"
    for revision, count in counts.items(): print(f"{revision}: {count}")


if __name__ == "__main__":
    main()
