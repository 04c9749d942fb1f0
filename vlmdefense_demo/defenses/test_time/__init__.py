"""Paid on every image: parameters adapted to the one unlabeled image in front of them."""
