"""Measure a tool's body in a worker process in its call's cgroup, and in other process pools.

`benchmarks.harness` measures the ways to run a body in turns, in random order.

- `tools`: the bodies;
- `pools`: the ways to run one in another process;
- `cell`: measures one cell of the table, in a process of its own;
- `report`: makes the table.
"""
