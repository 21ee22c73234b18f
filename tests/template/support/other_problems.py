"""Another problem's cells in the place of a project's own."""
import json
import re
from pathlib import Path

from helpers import owned, yours_name


def yours(file: Path) -> list[dict]:
    """The cells of a file in the percent format, as cells that a project owns."""
    made = []
    for number, part in enumerate(re.split(r"^# %%", file.read_text(), flags=re.M)[1:]):
        head, _, text = part.partition("\n")
        prose = "markdown" in head
        text = re.sub(r"^# ?", "", text, flags=re.M).strip() if prose else text.strip()
        cell = {"cell_type": "markdown", "id": f"yours-{number}", "metadata": {}, "source": text}
        made.append(cell if prose else cell | {"cell_type": "code", "execution_count": None, "outputs": []})
    return made


def replace_yours(notebook: Path, new: list[dict]) -> None:
    """Put a project's cells in the place of the old; each must define what one of the old did."""
    content = json.loads(notebook.read_text())
    mine = owned(content["cells"])
    names = {yours_name(cell) for cell, own in zip(content["cells"], mine) if own} - {None}
    strange = [cell["source"] for cell in new if cell["cell_type"] == "code" and yours_name(cell) not in names]
    assert not strange, f"{notebook.name} lets a project define {sorted(names)}, not: {strange[0]}"
    first = mine.index(True)
    kept = [cell for cell, own in zip(content["cells"], mine) if not own]
    cells = [*kept[:first], *new, *kept[first:]]
    notebook.write_text(json.dumps(content | {"cells": cells}, indent=1, ensure_ascii=False) + "\n")
