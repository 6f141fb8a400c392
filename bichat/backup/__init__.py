"""Copies of the log and of the keys that outlive their servers, and the way back."""
