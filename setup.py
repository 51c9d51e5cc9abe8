"""Compile the C extension and the BPF programs, both optional.

Everything else is in pyproject.toml.
"""

import glob
import importlib.util
import json
import os
import shutil
import subprocess
import sys
from types import MappingProxyType

from setuptools import Command, Extension, setup
from setuptools.command.build import build
from setuptools.command.build_ext import build_ext


class OptionalBuildExt(build_ext):
    """Build the extension where there is a compiler; without it the package spawns in pure Python.

    `Extension(optional=True)` alone does the same for a wheel, but an editable install then
    fails on the missing file.
    """

    def build_extensions(self):
        """Build each extension; drop one that fails, with a warning."""
        for extension in list(self.extensions):
            try:
                self.build_extension(extension)
            except Exception as error:
                self.extensions.remove(extension)
                self.warn(f"{extension.name} was not built, the fallback will be used: {error}")


class BuildBpf(Command):
    """Compile bpf/monitor.bpf.c: with clang, or with the one in the package ziglang.

    Without either the package installs all the same, and `agentcgroup doctor` says what is missing.
    """

    description = "compile the BPF programs"
    user_options = ()
    editable_mode = False
    source = "bpf/monitor.bpf.c"
    # -g: the types that fit the programs to the kernel; v3: its atomic instructions (5.12).
    options = ("-mcpu=v3", "-O2", "-g", "-Wall", "-Werror")
    # With a function of newer kernels, and without it: see life.bpf.h.
    objects = MappingProxyType({"monitor": (), "monitor-signal": ("-DSIGNAL_TASK",)})

    def initialize_options(self):
        """Nothing can be set but by `build`."""
        self.build_lib = None

    def finalize_options(self):
        """Put the objects where build_py puts the modules."""
        self.set_undefined_options("build_py", ("build_lib", "build_lib"))
        self.folder = os.path.join(self.build_lib, "agentcgroup", "bpf")
        self.built = []

    def run(self):
        """Compile, or say why not."""
        os.makedirs(self.folder, exist_ok=True)
        failures = []
        for compiler in self.compilers():
            try:
                for name, options in self.objects.items():
                    self.compile(name, [*compiler, *self.options, *options])
            except subprocess.CalledProcessError as error:
                failures.append(error.stderr.strip())
            except OSError as error:  # what $CLANG names is not there
                failures.append(str(error))
            else:
                self.make_skeletons()
                return
        why = "\n".join(failures) or "there is neither clang nor the package ziglang"
        self.warn(f"the BPF programs were not built, there will be no BPF monitor: {why}")

    def compile(self, name, command):
        """Compile one object."""
        target = os.path.join(self.folder, f"{name}.bpf.o")
        command = [*command, "-c", self.source, "-o", target]
        subprocess.run(command, capture_output=True, text=True, check=True)
        self.built.append(target)

    def make_skeletons(self):
        """Let libbpf write down how to load them, for machines that have no libbpf."""
        libbpf, programs = (load_module(f"bpf/{name}.py") for name in ("libbpf", "programs"))
        library = libbpf.libbpf()
        if library is None:
            self.warn("libbpf.so.1 is missing: what is built here needs it where it is to run")
            return
        for built in list(self.built):
            with open(built, "rb") as file:
                made = libbpf.generate(library, file.read(), programs.EVERYWHERE)
            head = {"programs": made.programs, "maps": made.maps, "data_size": len(made.data)}
            target = built.removesuffix(".bpf.o") + ".skel"
            with open(target, "wb") as file:
                file.write(json.dumps(head).encode() + b"\n" + made.data + made.code)
            self.built.append(target)

    def compilers(self):
        """Return the commands to try, best first."""
        clang = os.environ.get("CLANG") or shutil.which("clang")
        found = [[clang, "-target", "bpfel"]] if clang else []
        if importlib.util.find_spec("ziglang"):
            found.append([sys.executable, "-m", "ziglang", "cc", "-target", "bpfel-freestanding"])
        return found

    def get_source_files(self):
        """Return what the source distribution has to carry."""
        return [self.source, *sorted(glob.glob("bpf/*.h"))]

    def get_outputs(self):
        """Return what was built."""
        return self.built

    def get_output_mapping(self):
        """Return what is a mere copy of a source: nothing."""
        return {}


def load_module(path):
    """Import one file of the package, which is not installed yet; it needs nothing of the rest."""
    name = f"agentcgroup_build_{os.path.basename(path).removesuffix('.py')}"
    spec = importlib.util.spec_from_file_location(name, path)
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


build.sub_commands.append(("build_bpf", None))

setup(
    cmdclass={"build_bpf": BuildBpf, "build_ext": OptionalBuildExt},
    ext_modules=[
        Extension(
            "agentcgroup._native",
            sources=sorted(glob.glob("core/native/*.c")),
            depends=glob.glob("core/native/*.h"),  # the source distribution gets these, too
            define_macros=[("Py_LIMITED_API", "0x030A0000")],
            extra_compile_args=["-O2", "-Wall", "-Wextra", "-fvisibility=hidden"],
            py_limited_api=True,
        )
    ],
    options={"bdist_wheel": {"py_limited_api": "cp310"}},
)
