"""A LLaVA checkpoint with a dropping method: geometry, vision encoding, generation."""
