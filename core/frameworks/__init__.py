"""Frameworks: the adapters that hook them, and what these share."""
