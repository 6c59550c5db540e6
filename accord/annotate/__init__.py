"""Web pages where people compare, rank, rate and write, and their database; imported on first use."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
