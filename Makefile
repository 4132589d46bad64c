# The two commands of the README: `make demo` and `make test`. Everything happens in .venv.

PYTHON ?= python3
TORCH ?= torch==2.13.0
VENV := .venv
RUN := $(VENV)/bin/python
PIP := $(RUN) -m pip --disable-pip-version-check

.PHONY: demo test test-full lint docs bench bench-gpu bench-compare pages profile-nsys profile-ncu clean

demo: $(VENV)/.package
	$(RUN) -m fastliver.train

test: $(VENV)/.dev
	$(RUN) -m pytest -n 2 -m "not slow"

test-full: $(VENV)/.dev
	$(RUN) -m pytest -n 2 -m slow

lint: $(VENV)/.dev
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy
	$(VENV)/bin/clang-format --dry-run --Werror csrc/*.cpp csrc/*.h csrc/cuda/*.cu tests/csrc/*.cpp

# Ratios to stock PyTorch, pydicom, MONAI and torchmetrics on this machine, ten minutes on two cores; ONLY=<suite> runs
# one (docs/benchmarks.md). Real CT is read if FASTLIVER_REAL_DATA names its folder.
bench: $(VENV)/.dev
	$(RUN) -m benchmarks $(if $(ONLY),--only $(ONLY))
	$(MAKE) pages

# The same and more on a GPU, nine minutes a suite at most.
bench-gpu: $(VENV)/.dev
	$(RUN) -m benchmarks --gpu $(if $(ONLY),--only $(ONLY))
	$(MAKE) pages

# These sources beside the revision BASE, suite by suite in turn.
bench-compare: $(VENV)/.dev
	$(if $(BASE),,$(error name a revision: make bench-compare BASE=<commit, tag or branch>))
	$(RUN) -m benchmarks.compare $(BASE) $(if $(ONLY),--only $(ONLY))

# The plots and tables of README and docs from the newest results.
pages: $(VENV)/.dev
	$(RUN) -m benchmarks.plot
	$(RUN) -m benchmarks.pages

# The API reference, from the docstrings: docs/api/index.html. A package that names what is public (__all__) shows that
# alone, so its further public modules are named here.
API := inference models kernels kernels.reference metrics metrics.chaos metrics.components metrics.realism data training \
	export reporting config patients run_folder

docs: $(VENV)/.dev
	rm -rf docs/api
	$(RUN) -m pdoc --docformat google --no-show-source --output-directory docs/api $(addprefix fastliver.,$(API))

# Ten steps of the paper's EssNet on a GPU (docs/profiling.md); for other data or networks give PROFILED other options.
PROFILED ?= --image-size 256 --essnet-channels 64 --essnet-epochs 1 --stage essnet

# The timeline of kernels, copies and named ranges: profile.nsys-rep, and where the time goes as tables.
profile-nsys: $(VENV)/.package
	nsys profile --trace=cuda,nvtx,cudnn,cublas --cuda-graph-trace=node --capture-range=cudaProfilerApi \
		--capture-range-end=stop --force-overwrite=true --output=profile \
		$(RUN) -m fastliver.train $(PROFILED) --profile 20:30
	nsys stats --report nvtx_sum,cuda_gpu_kern_sum profile.nsys-rep

# One step's kernels one by one, each against the GPU's limits: profile.ncu-rep. Takes minutes: kernels run many times.
profile-ncu: $(VENV)/.package
	ncu --set full --nvtx --profile-from-start off --force-overwrite --export profile \
		$(RUN) -m fastliver.train $(PROFILED) --graph off --profile 20:21

clean:
	rm -rf $(VENV) build *.egg-info fastliver/_C*.so

# torch first: the package is installed without build isolation, against the torch that will run it.
$(VENV)/.torch:
	$(PYTHON) -c "import sys; assert sys.version_info >= (3, 11), 'fastliver needs Python 3.11 or newer'"
	$(PYTHON) -m venv $(VENV)
	$(PIP) install --quiet "setuptools>=77" wheel "$(TORCH)"
	touch $@

# Compiles the extension where there is a compiler, with CUDA where there is nvcc (FASTLIVER_CUDA=0: without).
# Warnings are errors only with FASTLIVER_WERROR=1, which .ci/run sets: a user's compiler may be newer than ours.
$(VENV)/.package: $(VENV)/.torch setup.py $(wildcard csrc/*.* csrc/cuda/*)
	$(PIP) install --quiet --no-build-isolation --editable .
	$(RUN) -c "from fastliver.metrics.extension import describe; print(describe())"
	touch $@

$(VENV)/.dev: $(VENV)/.package
	$(PIP) install --quiet --no-build-isolation --editable ".[dev]"
	touch $@
