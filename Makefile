# One word a chore. `demo` and `test` do all their set-up in .venv; a second run skips it.
PYTHON ?= $(shell command -v python3.11 || command -v python3.12 || command -v python3.13 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check

.PHONY: demo test test-slow shapes check bench format clean

demo: $(VENV)/.installed
	$(BIN)/python jobs/quickstart.py --out runs/demo

# Two files at a time: most of their time is spent waiting for processes to start. In the order of
# the rooms, as those with the fewest tests are not those that are done first.
test: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder -m "not slow and not gpu"

# Every annotated array shape is checked while the tests run. Tests of refusals are left out: there
# the annotation refuses first.
shapes: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -q tests/models tests/losses tests/evaluation tests/batches \
	    $(addprefix tests/video/test_,alignment.py pose.py quality.py redraw.py segmentation.py walking.py) \
	    -m "not slow and not ray and not gpu" -k "not refuse and not json" \
	    --jaxtyping-packages=raygait.models,raygait.losses,raygait.evaluation,raygait.batches,raygait.video,beartype.beartype

# Proofs that take minutes: whole clips, repeated kills, grids. Results are recorded beside the tests.
test-slow: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -q -m "slow"

check: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy raygait
	$(BIN)/lint-imports

# Measures every number that the repository claims, ours beside theirs where there is a theirs.
bench: $(VENV)/.installed-dev
	$(BIN)/python -m tests.benchmarks

format: $(VENV)/.installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) runs

$(VENV)/.installed: requirements.txt
	@$(PYTHON) jobs/preflight.py
	$(PYTHON) -m venv $(VENV)
	$(PIP) install --quiet -r requirements.txt
	@$(BIN)/python jobs/preflight.py --installed
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed requirements-dev.txt
	$(PIP) install --quiet -r requirements.txt -r requirements-dev.txt
	@touch $@
