"""The folder that `agentcgroup run` puts first on PYTHONPATH; see `sitecustomize` in it."""
