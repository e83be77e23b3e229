"""Regression: a chosen set of runs, answered again and compared with committed results sample by sample."""
