# Every target works on a fresh machine: what it needs is installed into .venv first.
VENV ?= .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
# A photograph of your own: make demo PHOTO=path
PHOTO ?=
# A folder of photographs of your own, for the figures on real photographs: make mini-eval PHOTOS=folder
PHOTOS ?=
PYTEST_ARGS ?=
# How often make chaos kills, and of how many bytes it changes one.
TIMES ?= 200
EVERY ?= 1
# How long make fuzz goes on.
FUZZ_S ?= 300

.DEFAULT_GOAL := help
.PHONY: help install demo test check lint format types imports protos protos-check manifests lock mini mini-advisors \
        mini-clip mini-critic mini-eval score-eval bench bench-gpu chaos fuzz mixed clean

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/ -/'

install: $(INSTALLED)  ## make .venv with everything in the locked versions

$(INSTALLED): pyproject.toml deploy/constraints.txt deploy/hashes.txt deploy/install.sh
	@VENV=$(VENV) deploy/install.sh
	@touch $@

demo: install  ## start the four services, analyse a photograph in all modes, write a report  [PHOTO=path]
	@$(BIN)/mondrian demo $(if $(PHOTO),"$(PHOTO)")

# A file's tests stay together, since they share what takes long to make; more processes would want much memory.
test: install  ## run every test
	@$(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile $(PYTEST_ARGS)

check: install lint types imports protos-check manifests test  ## lint, types, imports, stubs, manifests, tests

lint:
	@$(BIN)/ruff check --quiet . && $(BIN)/ruff format --quiet --check .

format: install  ## format the code
	@$(BIN)/ruff check --quiet --fix . ; $(BIN)/ruff format --quiet .

types:
	@$(BIN)/mypy --no-error-summary

imports:
	@$(BIN)/lint-imports --no-logo 2>&1 | tail -n 1; exit $${PIPESTATUS[0]}

protos: install  ## generate the stubs anew
	@$(BIN)/python -m tests.contract.generate protos

protos-check:
	@$(BIN)/python -m tests.contract.generate --check protos

manifests:
	@PATH="$(abspath $(BIN)):$$PATH" deploy/verify/check.sh

# triton is not installed beside a CPU build of torch. Of torch and torchvision each index has other wheels: no hashes.
lock: install  ## write the versions of everything installed to deploy/constraints.txt, the hashes of all their files to deploy/hashes.txt
	@{ $(BIN)/python -m pip freeze --all --exclude-editable | sed 's/+cpu$$//'; grep '^triton==' deploy/constraints.txt; } \
	  | LC_ALL=C sort -fu -o deploy/constraints.txt
	@grep -vE '^torch(vision)?==' deploy/constraints.txt \
	  | $(BIN)/uv pip compile --quiet --no-deps --generate-hashes --no-header --no-annotate - -o deploy/hashes.txt

mini: mini-advisors mini-clip mini-critic  ## draw the sample advisors and train the embedded models anew, from a seed; -j2 uses two cores

mini-advisors: install
	@$(BIN)/python -m deploy.mini.draw_advisors

mini-clip: install
	@$(BIN)/python -m deploy.mini.train_clip

mini-critic: install
	@$(BIN)/python -m deploy.mini.train_vlm
	@$(BIN)/python -m deploy.mini.train_adapters

mini-eval: install  ## measure the embedded models  [PHOTOS=folder]
	@$(BIN)/python -m deploy.mini.evaluate_clip $(if $(PHOTOS),--photos "$(PHOTOS)")
	@$(BIN)/python -m deploy.mini.evaluate_vlm $(if $(PHOTOS),--photos "$(PHOTOS)")

score-eval: install  ## measure the scorer on real photographs  PHOTOS=folder [LABELS=file.csv]
	@$(if $(PHOTOS),,echo 'mondrian: name a folder of photographs: make score-eval PHOTOS=folder' >&2; exit 2)
	@$(BIN)/python -m services.scorer.evaluate --photos "$(PHOTOS)" $(if $(LABELS),--labels "$(LABELS)") \
	  $(addprefix --advisor-dir ,$(wildcard deploy/mini/advisors/*))

bench: install  ## measure speed against ceilings of the same run (minutes; on a quiet machine)
	@$(BIN)/python -m tests.bench.gateway
	@$(BIN)/python -m tests.bench.embedder --vit-b-32
	@$(BIN)/python -m tests.bench.embedder --vit-b-32 --engine openvino --parts tower,served,references
	@$(BIN)/python -m tests.bench.clip_mode
	@$(BIN)/python -m tests.bench.clip_mode --engine openvino
	@$(BIN)/python -m tests.bench.search
	@$(BIN)/python -m tests.bench.scorer
	@$(BIN)/python -m tests.bench.critic
	@$(BIN)/python -m tests.bench.critic --size mid --parts speed,adapters --requests 16 --slots 8
	@$(BIN)/python -m tests.bench.structured

bench-gpu: install  ## measure the critic of the 4B's shape and a ViT-B/32, with random weights, on the GPU that is there
	@$(BIN)/python -m tests.bench.gpu

chaos: install  ## kill precompute, damage releases and fill disks, and see that nothing is lost  [TIMES=n] [EVERY=n]
	@$(BIN)/python -m tests.load.kill_precompute --times $(TIMES)
	@$(BIN)/python -m tests.load.break_releases --every $(EVERY)

fuzz: install  ## send the four services what no client should, and see that each answer is one of the contract's  [FUZZ_S=seconds]
	@$(BIN)/python -m tests.load.fuzz --seconds $(FUZZ_S)

mixed: install  ## compare a thousand mixed critiques through eight adapters with the same ones written alone (minutes)
	@$(BIN)/python -m tests.load.mixed_critiques

clean:  ## remove everything that was installed, pre-computed or cached
	@rm -rf $(VENV) .mondrian .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

SHELL := /bin/bash
