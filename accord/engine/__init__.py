"""The computational core under every method: trees, attention, sampling, optimizer steps; modules load on first use."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
