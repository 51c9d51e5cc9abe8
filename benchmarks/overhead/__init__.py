"""The time of a tool call with agentcgroup, without it, and with the alternatives.

The alternatives are bubblewrap, crun and a shell wrapper. `benchmarks.harness` runs the turns.

- `switch`: removes and restores the package's hooks, so that "plain" calls run none of its code;
- `inline`: a tool that starts no process;
- `launch`: a tool that runs /bin/true; `launchers` has the alternatives;
- `worker`: the process that measures one cell of the table;
- `report`: the table.
"""
