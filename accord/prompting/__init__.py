"""Language models that are given prompts, in this process or on a server: judges, critics, writers of instructions."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
