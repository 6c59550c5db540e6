"""Talking with one model or two: what was said, who says it, how it is shown, and what is kept of it."""
