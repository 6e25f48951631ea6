# Two commands for a newcomer: `make test` and `make demo`. Both set up .venv first, and again when what they need changes.

PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.installed

.PHONY: help demo test lint bench bench-check parity chips stores docs results-check clean
.DEFAULT_GOAL := help

help:  ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-13s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "Python 3.11 or newer is needed, but '$(PYTHON)' is: $$($(PYTHON) --version 2>&1)."; \
	  echo "Name another one: make PYTHON=/path/to/python3.11 ..."; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

demo: $(READY)  ## train a generator of handwritten digits on this machine, draw samples and score them (minutes)
	$(BIN)/drifting pretrain --config=configs/mae_digits.py --workdir=runs/mae_digits
	$(BIN)/drifting train --config=configs/digits.py --workdir=runs/demo
	$(BIN)/drifting sample --workdir=runs/demo --out=runs/demo/samples.png
	$(BIN)/drifting evaluate --workdir=runs/demo

lint: $(READY)  ## style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: lint  ## style, types and all tests, on the CPU
	$(BIN)/python -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder

# An environment of its own: the tests show that the project stands without PyTorch.
PARITY := .venv-parity/bin

.venv-parity/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv-parity
	$(PARITY)/python -m pip install --quiet --disable-pip-version-check torch==2.13.0
	$(PARITY)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[parity,dev]'
	@touch $@

parity: .venv-parity/.installed  ## compare the networks with their PyTorch references (installs PyTorch for the CPU)
	$(PARITY)/python -m pytest -q tests/parity

# An environment of its own, too: nothing of it is needed to use the project or to test it.
DOCS := .venv-docs/bin

.venv-docs/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv-docs
	$(DOCS)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt mkdocs-material
	@touch $@

docs: .venv-docs/.installed  ## build the pages of docs/ as a site; look at them with python -m http.server -d site
	NO_MKDOCS_2_WARNING=1 $(DOCS)/mkdocs build --strict --quiet
	$(DOCS)/python -m scripts.site_requests site

# The compilers of GPUs and TPUs, which need no chip.
CHIPS := .venv-chips/bin

.venv-chips/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv-chips
	$(CHIPS)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,plan-gpu,plan-tpu]'
	@touch $@

chips: .venv-chips/.installed  ## compile the step for GPUs and TPUs that are not here (minutes; installs their compilers)
	JAX_PLATFORMS=cpu $(CHIPS)/python -m pytest -q tests/chips

# Object stores that answer on this machine, and their clients, which nobody needs who writes to a folder.
STORES := .venv-stores/bin

.venv-stores/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv-stores
	$(STORES)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,gcs,s3,stores]'
	@touch $@

stores: .venv-stores/.installed  ## train, kill and resume runs in gs:// and s3:// against servers on this machine (minutes)
	DRIFTING_FULL_TESTS=1 $(STORES)/python -m pytest -q tests/runs/test_stores.py tests/test_store_runs.py

results-check: $(READY)  ## train one cell of the results on MNIST anew, from the files on, and compare it with the table
	$(BIN)/python -m scripts.fetch_mnist
	$(BIN)/drifting pretrain --config=configs/mae_mnist.py --workdir=runs/mae_mnist
	test -f data/mnist_mae.npz || \
	  $(BIN)/drifting reference --config=configs/mnist.py --encoder=mae:runs/mae_mnist/encoder --out=data/mnist_mae.npz
	rm -rf runs/mnist_check
	$(BIN)/drifting train --config=configs/mnist.py:cpu --config.loss.widths=0.3 --workdir=runs/mnist_check
	$(BIN)/drifting evaluate --workdir=runs/mnist_check --reference=data/mnist_mae.npz
	$(BIN)/python -m scripts.mnist_results --check=runs/mnist_check

bench: $(READY)  ## time the kernels, the losses and a training step on this machine
	$(BIN)/python -m scripts.bench

bench-check: $(READY)  ## compare what the compiler makes of the benches' programs with what is recorded
	$(BIN)/python -m scripts.bench_check

clean:  ## remove the environment, caches and the demo's runs; other runs stay
	rm -rf .venv .venv-parity .venv-chips .venv-stores .venv-docs site runs/demo runs/mae_digits runs/mnist_check build dist *.egg-info .jax_cache .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
