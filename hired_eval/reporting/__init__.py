"""Tables, figures and statistics from run records alone; no model is run here."""
