"""Chatting with models in the terminal: models that answer (speaker), commands (session), and display (screen)."""
