"""No weight ever changes: purified inputs, moved features, counted votes."""
