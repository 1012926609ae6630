"""Metrics of GLUE and SQuAD; numpy, scipy and scikit-learn, no Paddle."""
