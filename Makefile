# The lab's options: python -m tests.lab --help
PYTHON  := .venv/bin/python
KERNELS := 6.1 6.12 7.2 7.3
KERNEL  := 7.2
SUDO    := $(if $(filter 0,$(shell id -u)),,sudo)

.PHONY: install lint test test-native test-kernel lab-deps bench bench-lab

install: $(PYTHON)  ## a virtualenv with the package (editable) and all that tests need
$(PYTHON): pyproject.toml setup.py
	@if command -v uv >/dev/null; then \
	    uv venv --quiet --allow-existing .venv && \
	    uv pip install --quiet --python $(PYTHON) -e '.[dev]'; \
	else \
	    python3 -m venv .venv && $(PYTHON) -m pip install --quiet -e '.[dev]'; \
	fi
	@touch $(PYTHON)

lint: install
	$(PYTHON) -m ruff check
	$(PYTHON) -m ruff format --check
	$(PYTHON) -m mypy

test-native: install  ## what needs no cgroup controllers
	$(PYTHON) -m pytest tests/unit tests/frameworks

test-kernel: install  ## KERNEL=7.2 in a virtual machine; KERNEL=host on this very machine
	$(PYTHON) -m tests.lab suite $(KERNEL) -- $(ARGS)

test: lint test-native lab-deps  ## everything, on every kernel
	$(PYTHON) -m tests.lab suite $(KERNELS)

lab-deps:  ## what the virtual machine needs: QEMU and virtiofsd
	@if ! $(PYTHON) -m tests.lab check; then \
	    $(SUDO) apt-get install --yes --no-install-recommends qemu-system-x86 \
	        $$(apt-cache show virtiofsd >/dev/null 2>&1 && echo virtiofsd || echo qemu-system-common); \
	fi

bench: install  ## what a tool call costs, against nothing and against what else there is
	@if ! command -v bwrap >/dev/null || ! command -v crun >/dev/null; then \
	    $(SUDO) apt-get install --yes --no-install-recommends bubblewrap crun || true; \
	fi
	$(PYTHON) -m benchmarks.overhead --save native $(ARGS)

bench-lab: install lab-deps  ## the same with every controller on, in a virtual machine
	@mkdir -p build/bench
	$(PYTHON) -m tests.lab run --kernel $(KERNEL) --memory 4G --out build/bench -- \
	    $(PYTHON) -m benchmarks.overhead --json build/bench/vm.json $(ARGS)
	$(PYTHON) -m benchmarks.overhead --load build/bench/vm.json --save vm-$(KERNEL)
