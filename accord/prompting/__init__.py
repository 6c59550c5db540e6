"""Language models that are asked by prompts, whether at hand or served: judges, critics and writers of instructions."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
