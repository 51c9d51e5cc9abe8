# Everything about the virtual machines: .venv/bin/python -m tests.lab --help
PYTHON  := .venv/bin/python
KERNELS := 6.1 6.12 7.2 7.3
KERNEL  := 7.2
SUDO    := $(if $(filter 0,$(shell id -u)),,sudo)

.PHONY: bench bench-isolation bench-lab bench-neighbours build-deps demo install lint test test-deps test-native test-versions test-kernel test-kernels lab-deps

# A virtualenv with the package (editable) and all that the tests need.
install: .venv/installed

# Everything, on every kernel; `make -k test` goes on after a failure.
test: lint lab-deps test-native test-versions test-kernels

lint: install
	$(PYTHON) -m ruff check
	$(PYTHON) -m ruff format --check
	$(PYTHON) -m mypy

# What runs on any Linux, without controllers.
test-native: install test-deps
	$(PYTHON) -m pytest tests/unit tests/frameworks

# The same tests of the frameworks against the oldest releases that are supported; `nox --list` has
# those between.
test-versions: install
	$(PYTHON) -m nox --tags floor

# One kernel in a virtual machine, or KERNEL=host: this machine's own. ARGS go to pytest; a path there
# takes the suite's place: make test-kernel KERNEL=6.1 ARGS=tests/frameworks/conformance
test-kernel: install
	$(PYTHON) -m tests.lab suite $(KERNEL) --timeout 45m -- $(ARGS)

test-kernels: install lab-deps test-deps
	$(PYTHON) -m tests.lab suite $(KERNELS) --timeout 45m -- $(ARGS)

# The main job, on this machine where it can limit memory, else in a virtual machine.
CAN_LIMIT := from agentcgroup.place.place import find; raise SystemExit('memory' not in find().controllers)
demo: install
	@if $(PYTHON) -c "$(CAN_LIMIT)"; then $(PYTHON) examples/demo.py; else \
	    $(MAKE) --no-print-directory lab-deps && \
	    $(PYTHON) -m tests.lab run --kernel $(KERNEL) -- $(PYTHON) examples/demo.py; fi

# What a tool call costs, against nothing and against what else there is; kept beside each benchmark.
bench: install
	@command -v bwrap >/dev/null && command -v crun >/dev/null || \
	    $(SUDO) apt-get install --yes --no-install-recommends bubblewrap crun || true
	$(PYTHON) -m benchmarks.overhead --save native $(ARGS)
	$(PYTHON) -m benchmarks.monitor --save native

# The same with every controller on, in a virtual machine.
bench-lab: install lab-deps
	@mkdir -p build/bench
	$(PYTHON) -m tests.lab run --kernel $(KERNEL) --memory 4G --out build/bench -- \
	    $(PYTHON) -m benchmarks.overhead --json build/bench/vm.json $(ARGS)
	$(PYTHON) -m benchmarks.overhead --load build/bench/vm.json --save vm-$(KERNEL)

# What a tool's body costs in a worker process, against other pools; kept likewise.
bench-isolation: install
	$(PYTHON) -m benchmarks.isolation --save native $(ARGS)

# What one agent's calls notice of another that eats memory; printed only.
bench-neighbours: install lab-deps
	$(PYTHON) -m tests.lab run --kernel $(KERNEL) --memory 3G -- \
	    $(PYTHON) -m benchmarks.neighbours $(ARGS)

# What the tests and the virtual machine need of the system: QEMU, virtiofsd (in
# qemu-system-common up to Debian 12), and systemd, which is started in namespaces of its own.
NEEDED := pgrep dbus-daemon /lib/systemd/systemd
lab-deps: install
	@{ command -v $(NEEDED) && $(PYTHON) -m tests.lab check; } >/dev/null 2>&1 || { \
	    $(SUDO) apt-get update --quiet=2; \
	    $(SUDO) apt-get install --yes --no-install-recommends procps systemd dbus qemu-system-x86 \
	        $$(apt-cache pkgnames virtiofsd | grep -x virtiofsd || echo qemu-system-common); }
	@$(PYTHON) -m tests.lab check

# BCC of the distribution, which the monitor can use (without the headers of this machine's kernel),
# and CPython's own tests, which Debian has apart.
TESTSUITE := import sys; print("libpython%d.%d-testsuite" % sys.version_info[:2])
test-deps: install
	@{ test -e /usr/lib/python3/dist-packages/bcc/libbcc.py && \
	    $(PYTHON) -c 'import test.test_subprocess'; } 2>/dev/null || { \
	    $(SUDO) apt-get update --quiet=2; \
	    testsuite=$$($(PYTHON) -c '$(TESTSUITE)'); \
	    $(SUDO) apt-get install --yes --no-install-recommends python3-bpfcc \
	        $$(apt-cache pkgnames $$testsuite | grep -x $$testsuite || true); }

# What building needs of the system: a C compiler, Python's headers and its venv; for the BPF
# programs clang, and libbpf to load them. The package does without the compilers, its tests do not.
CAN_BUILD := import ctypes, ensurepip, os, sysconfig; ctypes.CDLL("libbpf.so.1"); \
    os.stat(sysconfig.get_path("include") + "/Python.h")
build-deps:
	@{ command -v cc && command -v clang && python3 -c '$(CAN_BUILD)'; } >/dev/null 2>&1 || { \
	    $(SUDO) apt-get update --quiet=2; \
	    $(SUDO) apt-get install --yes --no-install-recommends clang libbpf1 gcc libc6-dev \
	        python3-dev python3-venv; }

# A folder is newer when a module was added, which a strict editable install has to be told.
.venv/installed: pyproject.toml setup.py $(shell find core adapters bpf -type d -o -name '*.[ch]')
	@$(MAKE) --no-print-directory build-deps
	@if command -v uv >/dev/null; then \
	    uv venv --quiet --allow-existing .venv && \
	    uv pip install --quiet --python $(PYTHON) -e '.[dev]'; \
	else \
	    python3 -m venv .venv && $(PYTHON) -m pip install --quiet --upgrade pip && \
	    $(PYTHON) -m pip install --quiet -e '.[dev]'; \
	fi
	@touch $@
