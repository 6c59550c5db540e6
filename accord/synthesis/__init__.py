"""Synthetic data: instructions and their answers that language models make themselves, from a few that people wrote."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
