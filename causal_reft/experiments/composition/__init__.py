"""COMPOSITION: ways of learning two skills and of putting them together, measured on held-out prompts."""
