"""What a user types, and what is said back."""
