"""The folder that `agentcgroup run` puts first on PYTHONPATH; it has the `sitecustomize`."""
