"""What a tool call costs with agentcgroup, without it, and with what one would use instead.

`benchmarks.harness` has the turns in which it is measured.

- `switch`: the package's hooks taken off and put back, so that "without" is without;
- `inline`: a tool that starts nothing;
- `launch`: a tool that runs /bin/true; `launchers` has the other ways to run it;
- `worker`: the process in which one cell of the table is measured;
- `report`: the table.
"""
