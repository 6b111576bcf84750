# Two commands to begin with: `make demo` and `make test`. Both do all set-up by themselves, once.
# `make slow` adds the long tests, `make docs` renews docs/configuration.md, `make lock` the pins.
# `make study` makes the paper's tables, which takes hours and can be interrupted; `make study-quick` a small version of them.
# `make gpu-check` is for a machine with a CUDA device, whose environment is not made by set-up (docs/install.md).
.PHONY: demo test docs setup lint format types contracts pytest next-duckdb slow lock lock-gpu gpu-check study study-quick clean
PYTHONBIN := .venv/bin/python

demo: setup
	.venv/bin/tapo demo

test: setup lint types contracts pytest next-duckdb

setup:
	@bash infra/setup.sh

lint: setup
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .

format: setup
	.venv/bin/ruff check --fix .
	.venv/bin/ruff format .

types: setup
	.venv/bin/mypy

contracts: setup
	.venv/bin/lint-imports

pytest: setup
	$(PYTHONBIN) -m pytest -n 2 --dist loadfile -m "not slow and not gpu"

# The store's tests once more, on the next major version of DuckDB.
next-duckdb: export PYTHONPATH = $(CURDIR)/.venv/next-duckdb
next-duckdb: setup
	$(PYTHONBIN) -c "import duckdb; assert duckdb.__version__.startswith('2.'), duckdb.__version__"
	$(PYTHONBIN) -m pytest -n 2 --dist loadfile -m "not slow and not gpu" tests/store

slow: setup
	$(PYTHONBIN) -m pytest -m "slow and not gpu"

docs: setup
	$(PYTHONBIN) infra/config_reference.py

lock: setup
	$(PYTHONBIN) infra/lock.py

lock-gpu: setup
	$(PYTHONBIN) infra/lock.py gpu

gpu-check:
	$(PYTHONBIN) benchmarks/gpu_check.py --json build/gpu_check.json

study: setup
	.venv/bin/tapo study configs/studies/paper_tables.toml

study-quick: setup
	.venv/bin/tapo study configs/studies/paper_tables.toml --quick

clean:
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache .import_linter_cache build
