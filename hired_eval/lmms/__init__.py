"""All that knows lmms-eval: the registered model, its tasks, documents and scorers."""
