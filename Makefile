# `make demo` and `make test` work on a fresh machine: they make .venv and install into it.
PYTHON ?= python3
BIN := .venv/bin
TEXT ?= [S1] Hello, I am Dia. [S2] Welcome, Dia.
INSTALL := $(BIN)/python -m pip install --quiet --constraint constraints.txt

.PHONY: demo test test-oldest test-clients test-ui test-ray test-peer test-wheel test-descript test-gpu fuzz docs notebooks references check \
	format clean

demo: .venv/installed  ## say something with the embedded miniature: make demo TEXT="any sentence"
	$(BIN)/dia-hf generate "$(TEXT)" --seed 7 --output demo.wav

test: .venv/installed-dev  ## all tests, on the newest transformers that we know
	$(BIN)/python -m pytest -n 2

test-oldest: .venv-oldest/installed  ## the same with the oldest transformers that we allow
	.venv-oldest/bin/python -m pytest -n 2

test-peer: .venv/installed-dev .venv-oldest/installed  ## transformers' common tests, on its own Dia and on this one
	$(BIN)/python tests/peer/compare.py
	.venv-oldest/bin/python tests/peer/compare.py

test-ray: .venv/installed-dev  ## replicas under Ray Serve, on a Ray of this machine
	$(BIN)/python -m pytest tests/cluster

test-clients: .venv/installed-dev  ## clients of speech APIs, each in its own environment, against `dia-hf serve`
	$(BIN)/python tests/clients/run.py

test-ui: .venv/installed-dev  ## the page of `dia-hf ui`, in headless Chromium
	scripts/install_chromium.sh
	$(BIN)/python -m pytest tests/browser

# Both wheels: without the C++ operators, for any platform, and with them, where there is a compiler.
test-wheel:  ## the README's quickstart with the wheel alone, outside the clone
	rm -rf build/wheel
	$(PYTHON) -m venv .venv-wheel
	.venv-wheel/bin/python -m pip install --quiet --constraint constraints.txt torch
	DIA_HF_BUILD_NATIVE=0 .venv-wheel/bin/python -m pip wheel --quiet --no-deps --wheel-dir build/wheel/plain .
	.venv-wheel/bin/python -m pip wheel --quiet --no-deps --wheel-dir build/wheel/native .
	ls build/wheel/plain/*-py3-none-any.whl
	.venv-wheel/bin/python -m pip install --quiet --constraint constraints.txt build/wheel/plain/*.whl
	cd "$$(mktemp -d)" && $(CURDIR)/.venv-wheel/bin/python $(CURDIR)/tests/quickstart.py
	.venv-wheel/bin/python -m pip install --quiet --no-deps --force-reinstall build/wheel/native/*.whl
	cd "$$(mktemp -d)" && $(CURDIR)/.venv-wheel/bin/python $(CURDIR)/tests/quickstart.py

fuzz: .venv/installed-dev  ## hostile inputs of all kinds, some hundred of each; see tests/fuzz/run.py
	$(BIN)/python tests/fuzz/run.py --cases 100 --seed 1

# descript's package asks for torchaudio, whose extension needs CUDA's libraries. On a CPU build of torch it cannot be
# imported until the extension is out of the way; descript does not use it.
test-descript:  ## our codec against descript's own package, in an environment of its own
	$(PYTHON) -m venv .venv-descript
	.venv-descript/bin/python -m pip install --quiet --constraint constraints.txt torch
	.venv-descript/bin/python -m pip install --quiet --constraint constraints.txt --editable ".[descript]" \
		pytest hypothesis
	rm -f .venv-descript/lib/python3*/site-packages/torchaudio/lib/*.so
	.venv-descript/bin/python -m pytest tests/conversion/test_descript_package.py

# In the environment that is there: it has the torch that goes with the driver.
test-gpu:  ## what needs a CUDA device, in this environment
	$(PYTHON) -m pytest -m gpu tests/gpu

# Strict: a link or a reference that leads nowhere is an error. Reads the source without importing it.
docs: .venv/installed-docs  ## the documentation as a site, in build/site
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

references: .venv/installed-dev demo  ## after the embedded checkpoint was replaced: what tests and README show of it
	$(BIN)/python tests/make_references.py
	$(BIN)/python scripts/plot_speech.py demo.wav docs/images/demo.png
	$(BIN)/python -c "from dia_hf.audio.io import *; write_audio('docs/sounds/demo.mp3', *read_audio('demo.wav'))"

notebooks: .venv/installed-dev  ## run the notebooks and store them with their outputs
	$(BIN)/python scripts/run_notebooks.py

check: .venv/installed-dev  ## style, types, language
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python scripts/check_language.py

format: .venv/installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf .venv .venv-oldest .venv-wheel .venv-descript build demo.wav

.venv/bin/python:
	$(PYTHON) -m venv .venv

# torch first and by itself: asked for by another package, its newest build would be taken instead.
.venv/installed: .venv/bin/python pyproject.toml constraints.txt
	$(INSTALL) torch
	$(INSTALL) --editable .
	touch $@

.venv/installed-dev: .venv/installed
	$(INSTALL) --editable ".[dev]"
	$(INSTALL) --no-deps Resemblyzer
	-$(INSTALL) meeteval  # the oracle of cpWER; needs a compiler
	touch $@

.venv/installed-docs: .venv/installed
	$(INSTALL) --editable ".[docs]"
	touch $@

.venv-oldest/installed: constraints-oldest.txt pyproject.toml
	$(PYTHON) -m venv .venv-oldest
	.venv-oldest/bin/python -m pip install --quiet --constraint $< torch
	.venv-oldest/bin/python -m pip install --quiet --constraint $< --editable ".[dev]"
	.venv-oldest/bin/python -m pip install --quiet --no-deps Resemblyzer==0.1.4
	touch $@
