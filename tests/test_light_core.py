"""The algorithm can be imported where none of the heavy packages is installed."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
HEAVY = "torch transformers vllm openrlhf deepspeed ray prefect duckdb pyarrow pandas tokenizers matplotlib datasets"
CORE = (
    "records ids errors config steps verification error_location correction difficulty advantages token_weights "
    "statistics data data_tables decontamination schedule prompts progress files nano.families nano.config engines.protocols "
    "plan.report"
)
CODE = f"""
import importlib, importlib.abc, sys

class Absent(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {HEAVY.split()}:
            raise ModuleNotFoundError(f"{{name}} is not installed here", name=name)

sys.meta_path.insert(0, Absent())
for module in {CORE.split()}:
    importlib.import_module("tapo_core." + module)
print("imported")
"""


def test_the_core_imports_without_heavy_packages() -> None:
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.stdout.strip() == "imported", done.stderr
