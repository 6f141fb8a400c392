"""What proves that nobody touched the log: chains, seals over their heads, and how touching shows."""
