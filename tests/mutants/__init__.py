"""Seeded faults, and what catches them."""
