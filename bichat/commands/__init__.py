"""What can be asked of the log: commands, the decisions on them, and the one writer that executes them."""
