"""Attacks: one family a file. They see a function from pixels to logits, never a model."""
