"""Where on this machine cgroups can be made, and what can be enforced there."""
