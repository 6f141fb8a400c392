"""Read models: what readers see, folded from the log; each may be dropped and built again."""
