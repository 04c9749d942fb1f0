"""The page and its endpoints. The only package, with app.py, that imports gradio."""
