"""Recipes that made the weights in assets/. Needed to train, never to run the demo."""
