"""What PyInstaller needs: it looks for hooks in the folders of its entry point ``hook-dirs``."""

from __future__ import annotations

import os

__all__ = ["hook_dirs"]


def hook_dirs() -> list[str]:
    """Return the folder of ``hook-agentcgroup.py``."""
    return [os.path.dirname(os.path.abspath(__file__))]
