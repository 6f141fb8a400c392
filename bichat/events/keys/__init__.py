"""Data keys of persons, wrapped by a master key, and who was forgotten: a store of its own."""
