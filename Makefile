# `make demo` does the main job on a bare machine, `make test` proves it; everything else is for people who change the code.
# Settings: PYTHON (3.11 or newer), TORCH (what pip is asked for first), WORKERS (test processes), MINUTES (of the demo).
SHELL := /bin/bash
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

PYTHON ?= python3
TORCH ?= torch==2.13.0
WORKERS ?= 2
MINUTES ?= 1.5

BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet --constraint requirements/constraints.txt
PEERS_PIP := .venv-peers/bin/python -m pip --disable-pip-version-check install --quiet --constraint requirements/constraints.txt
ONE_THREAD := OMP_NUM_THREADS=1

.PHONY: help demo demo-short figures test lint format types imports equations equations-check docs docs-serve mutation mutation-short \
        quality score-matching presets likelihood posteriors guidance composition benchmarks peers frontier crash constraints clean

help: ## list these targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/\1\t\2/' | expand -t 18

# ── the environment ──────────────────────────────────────────────────────────────────────────────────────────────────
.venv/bin/python:
	$(PYTHON) -m venv .venv

# torch comes first and alone: asked for by another package's metadata, pip may choose another build of several gigabytes.
.venv/.core: pyproject.toml requirements/constraints.txt | .venv/bin/python
	@echo "installing scorefield into .venv (about 1 GB, a few minutes)" >&2
	$(PIP) $(TORCH)
	$(PIP) --editable .
	@touch $@

.venv/.dev: .venv/.core
	$(PIP) --editable '.[dev]'
	@touch $@

.venv/.docs: .venv/.dev
	$(PIP) --editable '.[docs]'
	@touch $@

.venv/.benchmarks: .venv/.dev
	$(PIP) --editable '.[benchmarks]'
	@touch $@

# Samplers of other libraries, whose metadata ask for torchvision: in an environment of their own, without dependencies.
.venv-peers/.built: pyproject.toml requirements/constraints.txt requirements/peers.txt
	$(PYTHON) -m venv .venv-peers
	$(PEERS_PIP) $(TORCH)
	$(PEERS_PIP) --editable .
	$(PEERS_PIP) --no-deps --requirement requirements/peers.txt
	@touch $@

constraints: .venv/.docs .venv/.benchmarks ## write down the versions that are installed now
	tools/constraints.sh $(BIN)/python > requirements/constraints.txt.new
	mv requirements/constraints.txt.new requirements/constraints.txt

# ── the main job ─────────────────────────────────────────────────────────────────────────────────────────────────────
demo: .venv/.core ## train on the built-in digits, draw, and write runs/demo/ with a report
	tools/demo.sh runs/demo --minutes $(MINUTES)

demo-short: .venv/.core ## the same in a few steps, to see that every part works
	EVALUATE=100 tools/demo.sh runs/demo-short --steps 20

figures: demo ## renew the pictures of the README and the docs from runs/demo/
	mkdir -p docs/images
	cp runs/demo/grid.png docs/images/demo.png
	cp runs/demo/film.gif docs/images/demo.gif

# ── proofs ───────────────────────────────────────────────────────────────────────────────────────────────────────────
test: .venv/.dev ## all tests and doctests, with shapes checked
	$(ONE_THREAD) $(BIN)/python -m pytest -q -n $(WORKERS) --dist worksteal

lint: .venv/.dev ## style and format
	$(BIN)/ruff check scorefield tests tools benchmarks
	$(BIN)/ruff format --check scorefield tests tools benchmarks

format: .venv/.dev ## apply the format
	$(BIN)/ruff check --fix scorefield tests tools benchmarks
	$(BIN)/ruff format scorefield tests tools benchmarks

types: .venv/.dev ## mypy over package and tests
	$(BIN)/mypy

imports: .venv/.dev ## imports point one way
	$(BIN)/lint-imports

equations: .venv/.core ## print the table: equation, line, test
	$(BIN)/python tools/equations.py

equations-check: .venv/.core ## fail where an equation has no test, or the table is old
	$(BIN)/python tools/equations.py --check

docs: .venv/.docs ## build the site into site/, without a network
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet

docs-serve: .venv/.docs ## read the site while writing it
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs serve

# ── long suites ──────────────────────────────────────────────────────────────────────────────────────────────────────
mutation: .venv/.dev ## change every symbol of the formula files; some test must notice
	$(ONE_THREAD) $(BIN)/python tools/mutate.py --workers $(WORKERS)

mutation-short: .venv/.dev ## a sample of the same, for CI
	$(ONE_THREAD) $(BIN)/python tools/mutate.py --workers $(WORKERS) --sample 40 --seed 0 --minutes 6 --least 75

crash: .venv/.dev ## kill, starve and damage a run in many ways; nothing may be lost
	$(ONE_THREAD) $(BIN)/python -m pytest -q -n $(WORKERS) tests/crash --crash-kills 300

quality: .venv/.benchmarks ## fit Fashion-MNIST for 15 minutes and measure, beside a peer
	$(BIN)/python benchmarks/quality.py

score-matching: .venv/.benchmarks ## learn toys by every form of score matching: pictures into docs/images, a table
	$(ONE_THREAD) $(BIN)/python benchmarks/score_matching.py --out docs/images

presets: .venv/.benchmarks ## train every preset for ten minutes on Fashion-MNIST: a grid and a Fréchet distance of each, into docs/
	$(BIN)/python benchmarks/presets.py --docs docs

likelihood: .venv/.benchmarks ## likelihoods where the truth is known: errors, bounds, probes
	$(ONE_THREAD) $(BIN)/python benchmarks/likelihood.py

guidance: .venv/.benchmarks ## accuracy, Fréchet distance, precision and recall over the scale: make guidance RUN=runs/fashion TRAIN=… TEST=…
	$(ONE_THREAD) $(BIN)/python benchmarks/guidance.py $(RUN) $(TRAIN) $(TEST) --count $(or $(COUNT),1000)

composition: .venv/.benchmarks ## models combined: what samplers draw from products, mixtures and quotients, tables and two pictures: make composition SEEDS=3
	$(ONE_THREAD) $(BIN)/python benchmarks/composition.py --out docs/images --seeds $(or $(SEEDS),1)

posteriors: .venv/.benchmarks ## restoration methods beside exact posteriors (azula's too after `make peers`): a table and a picture
	if [ -e .venv-peers/.built ]; then $(ONE_THREAD) .venv-peers/bin/python benchmarks/posteriors_peers.py; fi
	$(ONE_THREAD) $(BIN)/python benchmarks/posteriors.py
	$(ONE_THREAD) $(BIN)/python benchmarks/posteriors.py --picture docs/images/posteriors.png

benchmarks: .venv/.benchmarks ## training speed and sampling overhead beside peers
	$(BIN)/python benchmarks/train_speed.py
	$(ONE_THREAD) $(BIN)/python benchmarks/sampler_overhead.py

peers: .venv-peers/.built ## the environment of other libraries' samplers, for `make frontier`

frontier: .venv/.benchmarks ## every sampler and every peer's: error against evaluations; RUNS="DIR …" adds trained models
	$(ONE_THREAD) $(BIN)/python benchmarks/frontier.py $(addprefix --run ,$(RUNS)) --image docs/images/frontier.png

codec: .venv/.benchmarks ## the codec beside image formats: make codec RUN=runs/mine DATA=test-images COUNT=1000
	$(BIN)/python benchmarks/codec.py $(RUN) $(DATA) --count $(or $(COUNT),1000) --image docs/images/codec.svg

clean: ## remove what was built, keep runs and the environment
	rm -rf site dist build *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
