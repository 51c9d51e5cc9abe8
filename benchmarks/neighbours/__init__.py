"""What one agent's calls notice of another agent that eats memory until its limit.

Needs the memory controller; without it on this machine, run it in a virtual machine:

    make bench-neighbours
"""
