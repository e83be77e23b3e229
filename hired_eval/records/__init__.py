"""The file formats of a run, and what is computed from them alone."""
