"""Talking with models in the terminal: what is said (speaker), how it goes on (session), and how it looks (screen)."""
