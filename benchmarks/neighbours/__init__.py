"""What one agent's calls notice of another agent that eats memory until its limit.

Needs the memory controller; without it on this machine, run it in a virtual machine:

    python -m tests.lab run --kernel 7.2 --memory 3G -- .venv/bin/python -m benchmarks.neighbours
"""
