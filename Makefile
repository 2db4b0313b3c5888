# Every target sets up what it needs; the first one takes as long as the downloads do. The peers' DataLoader loops need torchvision,
# which comes with [backbones] in the version that fits the torch of constraints.txt; peers that do not go with ours get
# environments of their own in .peers/.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
ifeq ($(OS),Windows_NT)
BIN := $(VENV)/Scripts
endif
STAMP := $(VENV)/.installed

.PHONY: quickstart test lint bench bench-gpu docs clean

quickstart: $(STAMP)  ## synthetic tissue (or DATA=DIR) to a judged model and a picture
	$(BIN)/sentinode quickstart $(if $(DATA),--data "$(DATA)") $(if $(OUT),--out "$(OUT)") --overwrite

test: $(STAMP)  ## the whole test suite
	$(BIN)/python -m pytest -n 2 --dist worksteal

lint: $(STAMP)  ## style, types, layers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(STAMP)  ## the board: this machine beside the peers (TILES=DIR, MINUTES="1 5 20", PEERS="...", ENVIRONMENTS=DIR)
	$(BIN)/python -m benchmarks.board $(if $(TILES),--tiles "$(TILES)") $(if $(MINUTES),--minutes $(MINUTES)) \
		$(if $(PEERS),--peers $(PEERS)) $(if $(ENVIRONMENTS),--environments "$(ENVIRONMENTS)") $(if $(OUT),--out "$(OUT)")

bench-gpu: $(STAMP)  ## 220,000 tiles resident on a GPU: seconds an epoch and share of the peak
	$(BIN)/python -m benchmarks.gpu

docs: $(STAMP)  ## the generated reference, and README's measured numbers
	$(BIN)/python -m docs.reference
	$(BIN)/python -m benchmarks.fill_readme

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[hdf5,backbones,search,openvino,int8,onnx,dev]'
	$(BIN)/python -c "open('$(STAMP)', 'w').close()"

clean:
	rm -rf $(VENV) quickstart
