"""The mathematics of alignment: pure functions of tensors, each returning one value per element, never a mean.

Shapes are ragged and flat. P counts pairs, C completions (branches), G samples of one prompt and N trained tokens; a
completion's tokens are contiguous and in order, and `owner (N,)` says which completion each belongs to. Losses are to
be minimized. Nothing here reduces over a batch: the caller divides once, by the count it knows. Every function works in
any floating dtype on any device, checks its preconditions on entry and raises ValueError where they do not hold.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
