# The virtual machines have a command line of their own: .venv/bin/python -m tests.lab --help
PYTHON  := .venv/bin/python
KERNELS := 6.1 6.12 7.2 7.3
KERNEL  := 7.2
SUDO    := $(if $(filter 0,$(shell id -u)),,sudo)

.PHONY: bench bench-isolation bench-lab bench-neighbours build-deps demo install lint test test-deps \
    test-frameworks test-here test-kernel test-kernels test-native test-unit test-upstream \
    test-versions lab-deps

# Make a virtualenv with the package (an editable install) and the packages that the tests need.
install: .venv/installed

# Run all tests; `make -k test` goes on after a failure. What needs no kernel runs two at a time. Nothing
# else may run with test-versions, which builds the extension anew.
test: lint lab-deps test-here test-versions test-kernels

test-here: install test-deps
	@$(MAKE) --no-print-directory --jobs=2 --output-sync=target test-unit test-frameworks test-upstream

lint: install
	$(PYTHON) -m ruff check
	$(PYTHON) -m ruff format --check
	$(PYTHON) -m mypy

# Run the tests that need no cgroup controllers, on this machine.
test-native: test-unit test-frameworks

test-unit test-frameworks: test-%: install test-deps
	$(PYTHON) -m pytest tests/$*

# Run a part of other projects' own tests with and without agentcgroup, and compare each test;
# `python -m tests.upstream --help` shows how to run all of them.
test-upstream: install
	$(PYTHON) -m tests.upstream --quick $(ARGS)

# Run the tests of the frameworks with the oldest releases that are supported; `nox --list` lists
# the releases in between.
test-versions: install
	$(PYTHON) -m nox --tags floor

# Run the kernel tests on one kernel in a virtual machine, or with KERNEL=host on this machine. ARGS
# go to pytest; a path in ARGS replaces tests/kernel:
#   make test-kernel KERNEL=6.1 ARGS=tests/frameworks/conformance
test-kernel: install
	$(PYTHON) -m tests.lab suite $(KERNEL) --timeout 45m -- $(ARGS)

test-kernels: install lab-deps test-deps
	$(PYTHON) -m tests.lab suite $(KERNELS) --timeout 45m -- $(ARGS)

# Run the demo, on this machine if it can limit memory, else in a virtual machine.
CAN_LIMIT := from agentcgroup.place.place import find; raise SystemExit('memory' not in find().controllers)
demo: install
	@if $(PYTHON) -c "$(CAN_LIMIT)"; then $(PYTHON) examples/demo.py; else \
	    $(MAKE) --no-print-directory lab-deps && \
	    $(PYTHON) -m tests.lab run --kernel $(KERNEL) -- $(PYTHON) examples/demo.py; fi

# Measure the time of a tool call, without agentcgroup and with the alternatives, too. The results are
# kept beside each benchmark.
bench: install
	@command -v bwrap >/dev/null && command -v crun >/dev/null || \
	    $(SUDO) apt-get install --yes --no-install-recommends bubblewrap crun || true
	$(PYTHON) -m benchmarks.overhead --save native $(ARGS)
	$(PYTHON) -m benchmarks.monitor --save native

# Measure the same with every controller on, in a virtual machine.
bench-lab: install lab-deps
	@mkdir -p build/bench
	$(PYTHON) -m tests.lab run --kernel $(KERNEL) --memory 4G --out build/bench -- \
	    $(PYTHON) -m benchmarks.overhead --json build/bench/vm.json $(ARGS)
	$(PYTHON) -m benchmarks.overhead --load build/bench/vm.json --save vm-$(KERNEL)

# Measure the time of a tool's body in a worker process and in other process pools; kept likewise.
bench-isolation: install
	$(PYTHON) -m benchmarks.isolation --save native $(ARGS)

# Measure one agent's calls beside an agent that uses memory up to its limit; printed only.
bench-neighbours: install lab-deps
	$(PYTHON) -m tests.lab run --kernel $(KERNEL) --memory 3G -- \
	    $(PYTHON) -m benchmarks.neighbours $(ARGS)

# Install the system packages that the tests and the virtual machine need: QEMU, virtiofsd (part of
# qemu-system-common up to Debian 12), and systemd, which tests start in namespaces of its own.
NEEDED := pgrep dbus-daemon /lib/systemd/systemd
lab-deps: install
	@{ command -v $(NEEDED) && $(PYTHON) -m tests.lab check; } >/dev/null 2>&1 || { \
	    $(SUDO) apt-get update --quiet=2; \
	    $(SUDO) apt-get install --yes --no-install-recommends procps systemd dbus qemu-system-x86 \
	        $$(apt-cache pkgnames virtiofsd | grep -x virtiofsd || echo qemu-system-common); }
	@$(PYTHON) -m tests.lab check

# Install the distribution's BCC, which the monitor can use (without the headers of this machine's
# kernel), and CPython's own tests, which are a separate package in Debian.
TESTSUITE := import sys; print("libpython%d.%d-testsuite" % sys.version_info[:2])
test-deps: install
	@{ test -e /usr/lib/python3/dist-packages/bcc/libbcc.py && \
	    $(PYTHON) -c 'import test.test_subprocess'; } 2>/dev/null || { \
	    $(SUDO) apt-get update --quiet=2; \
	    testsuite=$$($(PYTHON) -c '$(TESTSUITE)'); \
	    $(SUDO) apt-get install --yes --no-install-recommends python3-bpfcc \
	        $$(apt-cache pkgnames $$testsuite | grep -x $$testsuite || true); }

# Install the system packages that the build needs: a C compiler, Python's headers and venv; clang for
# the BPF programs, and libbpf to load them. The tests need both compilers; the package works without.
CAN_BUILD := import ctypes, ensurepip, os, sysconfig; ctypes.CDLL("libbpf.so.1"); \
    os.stat(sysconfig.get_path("include") + "/Python.h")
build-deps:
	@{ command -v cc && command -v clang && python3 -c '$(CAN_BUILD)'; } >/dev/null 2>&1 || { \
	    $(SUDO) apt-get update --quiet=2; \
	    $(SUDO) apt-get install --yes --no-install-recommends clang libbpf1 gcc libc6-dev \
	        python3-dev python3-venv; }

# A strict editable install has to be repeated when a module is added, which changes its folder.
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
