"""JupyterLab as `make lab` starts it, with everything that it writes for its user in a folder of the test."""
import json
import sys
from pathlib import Path

from helpers import Started, environment

SETTINGS = {
    "apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False},
    "notebook-extension/tracker": {"windowingMode": "none", "autoStartDefaultKernel": True},
}


def make_lab(project: Path, port: int, folder: Path, **more) -> Started:
    """The command itself, in a project that has the packages of this one; `more` are environment variables."""
    own = {name: folder / name for name in ("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "IPYTHONDIR", "JUPYTERLAB_SETTINGS_DIR")}
    for name, content in SETTINGS.items():
        file = own["JUPYTERLAB_SETTINGS_DIR"] / "@jupyterlab" / f"{name}.jupyterlab-settings"
        file.parent.mkdir(parents=True, exist_ok=True); file.write_text(json.dumps(content))
    options = f"--no-browser --port={port} --IdentityProvider.token="
    command = ["make", "lab", f"BIN={Path(sys.executable).parent}", "READY=", f"LAB={options}"]
    return Started(command, f"http://127.0.0.1:{port}/api", folder / "lab.log", cwd=project,
                   env=environment(project, **own, **more))
