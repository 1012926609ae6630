"""Where heads look: record what a model mixes, measure it, draw it."""
