# Every target works on a fresh clone: it makes the environment in .venv first.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
EXTRAS := all,dev

.DEFAULT_GOAL := help
.PHONY: help setup types lint format test demo bench-help bench-shards bench-reading bench-scenes bench-contrastive bench-diffusion reproduce-filip reproduce-wukong reproduce-pangu weights gpu-check test-webdataset-0.2 clean

help: ## what can be made
	@grep -hE '^[a-z0-9.-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 26

$(VENV)/.ready: pyproject.toml setup.py
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet 'uv>=0.5'
	$(BIN)/uv pip install --quiet --python $(BIN)/python -e '.[$(EXTRAS)]'
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --python-version 3.12 --python-platform x86_64-manylinux_2_28 mediapipe==0.10.21 # two files of it serve, on any machine
	touch $@

setup: $(VENV)/.ready ## make the environment in .venv

types: setup # links through which type checkers see the folders as lt.*
	@mkdir -p build/types/lt
	@for p in __init__.py py.typed; do ln -sfn ../../../lt/$$p build/types/lt/$$p; done
	@for d in cli datagen models recipes; do ln -sfn ../../../$$d build/types/lt/$$d; done

lint: types ## ruff, pyright, import-linter
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	cd build/types && ../../$(BIN)/lint-imports --no-logo --config ../../pyproject.toml

format: setup ## let ruff lay the code out
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

test: setup ## all tests (two cores: under 25 minutes)
	$(BIN)/python -m pytest -n 2 -q

demo: setup ## shipped photographs to layers, and a page that shows them
	$(BIN)/lt datagen layers --src photos --out data/layers-photos --workers 2
	$(BIN)/lt shards verify data/layers-photos
	$(BIN)/lt shards page data/layers-photos --out data/layers-photos-page
	@echo "Look at: data/layers-photos-page/index.html   (open it in a browser)"

bench-help: setup ## start-up of lt --help against importing typer and rich
	$(BIN)/python benchmarks/help.py

bench-shards: setup ## shards against stock webdataset and sha256sum
	$(BIN)/python benchmarks/shards.py

test-webdataset-0.2: setup ## the readers' tests with the old webdataset that img2dataset needs (fetches it)
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --target build/webdataset-0.2 webdataset==0.2.111
	PYTHONPATH=build/webdataset-0.2 $(BIN)/python -c "import webdataset as w; assert w.__version__ == '0.2.111', w.__file__"
	PYTHONPATH=build/webdataset-0.2 $(BIN)/python -m pytest -q tests/datagen/shards/test_other_readers.py

bench-reading: setup ## pictures for training against stock webdataset with Pillow
	$(BIN)/python benchmarks/reading.py

bench-scenes: setup ## scenes at 256 px, samples a second per core
	$(BIN)/python benchmarks/scenes.py

bench-contrastive: setup ## the token-wise loss against the naive einsum; training against open_clip's trainer
	$(BIN)/python benchmarks/contrastive_loss.py
	$(BIN)/python benchmarks/contrastive_training.py

bench-diffusion: setup ## sampling and training against diffusers; a coop step against the sum of its parts
	$(BIN)/python benchmarks/diffusion_sampling.py
	$(BIN)/python benchmarks/diffusion_training.py

reproduce-filip reproduce-wukong reproduce-pangu: reproduce-%: setup ## re-test the paper's claims in miniature (half an hour to an hour and a half of two cores)
	$(BIN)/lt reproduce $*

weights: setup ## train the miniatures again that come with the package (about two hours on two cores)
	$(BIN)/lt train filip
	$(BIN)/lt train wukong
	$(BIN)/lt train pangu --preset longer
	$(BIN)/lt train pangu --preset long-texture
	$(BIN)/lt train pangu --preset long-pose
	$(BIN)/lt train pangu --preset long-edge
	$(BIN)/python -m lt.recipes.ship filip wukong vae pangu

gpu-check: setup ## on a GPU: agreement with the CPU, samples/s and memory at the papers' sizes
	$(BIN)/python benchmarks/gpu_check.py

clean: ## remove the environment and what was built
	rm -rf $(VENV) build dist *.egg-info
