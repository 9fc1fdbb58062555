"""Recipes: the whole job, step by step."""
