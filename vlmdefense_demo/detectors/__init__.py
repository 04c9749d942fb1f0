"""Detectors say whether a picture was attacked; they leave the answer as it is."""
