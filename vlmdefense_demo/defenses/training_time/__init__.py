"""Paid once, before anyone asks: adversarially fine-tuned weights and prompts."""
