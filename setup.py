"""The C extension; everything else is in pyproject.toml."""

from setuptools import Extension, setup

setup(
    ext_modules=[
        Extension(
            "agentcgroup._native",
            sources=["core/_native.c"],
            define_macros=[("Py_LIMITED_API", "0x030A0000")],
            extra_compile_args=["-O2", "-Wall", "-Wextra", "-fvisibility=hidden"],
            py_limited_api=True,
            # Without a compiler the package installs all the same and takes the slower way.
            optional=True,
        )
    ],
    options={"bdist_wheel": {"py_limited_api": "cp310"}},
)
