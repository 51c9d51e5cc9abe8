"""What the BPF monitor costs: processes of a call, processes of nobody's, and the calls' ends.

Each variant (no monitor, the default detail, the full one) takes its turn in every round, in an
order that moves on, and is compared with the run without a monitor of the same round: what the
machine does beside falls on all of them. The monitor lives in a process of its own, as in use.
"""
