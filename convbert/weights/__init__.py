"""Weights of other ecosystems: names, layouts, reading and writing."""
