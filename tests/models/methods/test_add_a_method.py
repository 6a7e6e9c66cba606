"""The recipe of docs/guides/add-a-method.md, followed to the letter."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parents[3]


def test_method_added_by_the_recipe_keeps_the_contract(tmp_path):
    text = (HERE / "docs" / "guides" / "add-a-method.md").read_text()
    method, settings, line = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    for room in ("models", "data", "tests/models"):
        shutil.copytree(HERE / room, tmp_path / room, ignore=shutil.ignore_patterns("raw"))
    shutil.copy(HERE / "pyproject.toml", tmp_path)
    methods = tmp_path / "models" / "methods"
    family = methods / "contrastive"
    (family / "uniformity.py").write_text(method)
    insert(family / "params.py", "class SimCLRParams", settings + "\n\n")
    imported = "from models.methods.contrastive.params import UniformityParams\n"
    insert(methods / "params.py", "MethodParams = ", imported)
    insert(methods / "params.py", "    | SimSiamParams", "    | UniformityParams\n")
    insert(methods / "registry.py", '    "vicreg"', line)
    contract = ["tests/models/methods/test_method_contract.py", "-k", "uniformity or registered"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *contract],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    passed = int(re.search(r"(\d+) passed", done.stdout)[1])
    assert passed >= 15, "the contract has not run"


def insert(path, before, text):
    whole = path.read_text()
    assert whole.count(before) == 1
    path.write_text(whole.replace(before, text + before))
