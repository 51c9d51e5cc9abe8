"""The time of one agent's calls beside another agent that uses memory up to its limit.

The benchmark needs the memory controller. This command runs it in a virtual machine:

    make bench-neighbours
"""
