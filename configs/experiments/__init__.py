"""Shipped experiments: a recipe, arms that change it, seeds, and what they are meant to differ in."""
