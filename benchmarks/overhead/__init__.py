"""What a tool call costs with agentcgroup, without it, and with what one would use instead.

Only ratios within one run are worth anything, so everything compared runs in the same process, in
turns, in random order: the first module below has that, the others stand on it.

- `sampling`: turns, and what is kept of them;
- `switch`: the package's hooks taken off and put back, so that "without" is without;
- `inline`: a tool that starts nothing;
- `launch`: a tool that runs /bin/true; `launchers` has the other ways to run it;
- `worker`: the process in which one cell of the table is measured;
- `machine`, `report`: where it was measured, and the table.
"""
