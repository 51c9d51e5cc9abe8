"""What a limit does to a call: deadlines, sampled memory, and the verdict on how it ended."""
