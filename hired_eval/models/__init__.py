"""A vision-language model with a dropping method applied to it."""
