"""Backbones and classifiers. The only package that imports open_clip."""
