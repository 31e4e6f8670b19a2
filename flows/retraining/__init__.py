"""The nightly retraining: what is new, is it strange, train, compare, promote."""
