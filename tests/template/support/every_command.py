"""Call every command of `mlops` in broken workspaces, and print how each ended; for test_refusals.py.

Imports cost seconds, so one process makes all calls: every_command.py GIVEN WORKSPACE…
"""
import json
import os
import sys
from pathlib import Path
from unittest.mock import patch

from typer.testing import CliRunner

from mlops_lifecycle.cli import app


def commands(given: Path) -> list[list[str]]:
    """Calls of each command; `given` holds files of requests and answers."""
    return [
        ["run", "plan", "--force"], ["status"], ["serve"], ["yours"], ["settings"], ["try"], ["trace", "0" * 32],
        ["keys", "make", "desk", "--scope", "predict"], ["keys", "list"], ["keys", "revoke", "00000000"],
        ["score", str(given / "requests.jsonl"), str(given / "scores.csv")],
        ["labels", "next", "--annotator", "ann"], ["labels", "next", "--annotator", "ann", "--answer", "1"],
        ["labels", "export", os.environ["MLOPS_WORKSPACE"] + "/queue.csv"],
        ["labels", "import", str(given / "answers.csv"), "--annotator", "ben"],
    ]


def ended(words: list[str]) -> dict:
    lake = "lake" in os.environ["MLOPS_WORKSPACE"] and words[0] == "run"  # that runs, for seconds
    with patch("mlops_lifecycle.core.serving.server._serve"), patch("mlops_lifecycle.cli.export_edits", return_value=False):
        done = CliRunner().invoke(app, ["status"] if lake else words)
    fault = None if isinstance(done.exception, SystemExit) else done.exception
    return {"command": " ".join(words), "code": done.exit_code, "said": done.stderr, "fault": fault and repr(fault)}


if __name__ == "__main__":
    found = {}
    for workspace in sys.argv[2:]:
        os.environ["MLOPS_WORKSPACE"] = workspace
        found[Path(workspace).name] = [ended(words) for words in commands(Path(sys.argv[1]))]
    print(json.dumps(found))
