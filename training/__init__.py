"""Training of the bundled model, from nothing to a checkpoint with a card."""
