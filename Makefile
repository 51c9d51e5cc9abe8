# Everything about the virtual machines: .venv/bin/python -m tests.lab --help
PYTHON  := .venv/bin/python
KERNELS := 6.1 6.12 7.2 7.3
KERNEL  := 7.2
SUDO    := $(if $(filter 0,$(shell id -u)),,sudo)

.PHONY: bench bench-lab demo install lint test test-native test-versions test-kernel test-kernels lab-deps

# A virtualenv with the package (editable) and all that the tests need.
install: .venv/installed

# Everything, on every kernel; `make -k test` goes on after a failure.
test: lint lab-deps test-native test-versions test-kernels

lint: install
	$(PYTHON) -m ruff check
	$(PYTHON) -m ruff format --check
	$(PYTHON) -m mypy

# What runs on any Linux, without controllers.
test-native: install
	$(PYTHON) -m pytest tests/unit tests/frameworks

# The same tests of the frameworks against the oldest releases that are supported; `nox --list` has
# those between.
test-versions: install
	$(PYTHON) -m nox --tags floor

# One kernel in a virtual machine, or KERNEL=host: this machine's own. ARGS go to pytest.
test-kernel: install
	$(PYTHON) -m tests.lab suite $(KERNEL) -- $(ARGS)

test-kernels: install lab-deps
	$(PYTHON) -m tests.lab suite $(KERNELS) -- $(ARGS)

# The main job, on this machine where it can limit memory, else in a virtual machine.
CAN_LIMIT := from agentcgroup.cgroup import find; raise SystemExit('memory' not in find().controllers)
demo: install
	@if $(PYTHON) -c "$(CAN_LIMIT)"; then $(PYTHON) examples/demo.py; else \
	    $(MAKE) --no-print-directory lab-deps && \
	    $(PYTHON) -m tests.lab run --kernel $(KERNEL) -- $(PYTHON) examples/demo.py; fi

# What a tool call costs, against nothing and against what else there is; into benchmarks/results.
bench: install
	@command -v bwrap >/dev/null && command -v crun >/dev/null || \
	    $(SUDO) apt-get install --yes --no-install-recommends bubblewrap crun || true
	$(PYTHON) -m benchmarks.overhead --save native $(ARGS)

# The same with every controller on, in a virtual machine.
bench-lab: install lab-deps
	@mkdir -p build/bench
	$(PYTHON) -m tests.lab run --kernel $(KERNEL) --memory 4G --out build/bench -- \
	    $(PYTHON) -m benchmarks.overhead --json build/bench/vm.json $(ARGS)
	$(PYTHON) -m benchmarks.overhead --load build/bench/vm.json --save vm-$(KERNEL)

# What the tests and the virtual machine need of the system: QEMU, virtiofsd (in
# qemu-system-common up to Debian 12), and systemd, which is started in namespaces of its own.
NEEDED := pgrep dbus-daemon /lib/systemd/systemd
lab-deps: install
	@{ command -v $(NEEDED) && $(PYTHON) -m tests.lab check; } >/dev/null 2>&1 || { \
	    $(SUDO) apt-get update --quiet=2; \
	    $(SUDO) apt-get install --yes --no-install-recommends procps systemd dbus qemu-system-x86 \
	        $$(apt-cache pkgnames virtiofsd | grep -x virtiofsd || echo qemu-system-common); }
	@$(PYTHON) -m tests.lab check

# A folder is newer when a module was added, which a strict editable install has to be told.
.venv/installed: pyproject.toml setup.py $(shell find core adapters bpf -type d -o -name '*.[ch]')
	@if command -v uv >/dev/null; then \
	    uv venv --quiet --allow-existing .venv && \
	    uv pip install --quiet --python $(PYTHON) -e '.[dev]'; \
	else \
	    python3 -m venv .venv && $(PYTHON) -m pip install --quiet --upgrade pip && \
	    $(PYTHON) -m pip install --quiet -e '.[dev]'; \
	fi
	@touch $@
