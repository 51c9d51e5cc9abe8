"""What a tool's body costs in a worker process in its call's cgroup, against other process pools.

`benchmarks.harness` has the turns in which it is measured.

- `tools`: the bodies;
- `pools`: the ways to run one in a process;
- `cell`: the process in which one cell of the table is measured;
- `report`: the table.
"""
