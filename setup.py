"""The C extension, optional; everything else is in pyproject.toml."""

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext


class OptionalBuildExt(build_ext):
    """Build what can be built: without a compiler the package takes the slower way to spawn.

    `Extension(optional=True)` alone does the same for a wheel, but an editable install then
    still looks for the file that was not built.
    """

    def build_extensions(self):
        """Build each extension; forget those that fail, saying so."""
        for extension in list(self.extensions):
            try:
                self.build_extension(extension)
            except Exception as error:
                self.extensions.remove(extension)
                self.warn(f"{extension.name} was not built, the fallback will be used: {error}")


setup(
    cmdclass={"build_ext": OptionalBuildExt},
    ext_modules=[
        Extension(
            "agentcgroup._native",
            sources=["core/_native.c"],
            define_macros=[("Py_LIMITED_API", "0x030A0000")],
            extra_compile_args=["-O2", "-Wall", "-Wextra", "-fvisibility=hidden"],
            py_limited_api=True,
        )
    ],
    options={"bdist_wheel": {"py_limited_api": "cp310"}},
)
