"""Side-by-side speed comparisons: `python -m bench`, or `make bench`."""
