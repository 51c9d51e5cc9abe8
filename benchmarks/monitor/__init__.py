"""The cost of the BPF programs for processes of a call, for other processes, and for each call.

Every round runs each variant (no programs, the default detail, the full one) once, beginning with
another one each time. A variant is compared with the run without programs of the same round, so
that other load on the machine affects all of them. A process of its own holds the programs, as the
monitor's helper does in use.
"""
