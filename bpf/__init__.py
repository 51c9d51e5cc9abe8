"""The BPF programs of agentcgroup: their C sources, their build and their loader."""
