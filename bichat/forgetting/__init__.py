"""Forgetting people: what of them is found, what is told and destroyed, and what holds it off."""
