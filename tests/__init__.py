"""Tests of vlmdefense_demo: they mirror the package and need no network, GPU or trained weights."""
