"""What is fast, written once under every method; its modules are imported when first used."""

from typing import TYPE_CHECKING

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submodules=[
        "attention",
        "cache",
        "checkpoint",
        "config",
        "fit",
        "forward",
        "generate",
        "inside",
        "load",
        "models",
        "precision",
        "readout",
        "sampling",
        "tiles",
        "trees",
    ],
)

if TYPE_CHECKING:
    from accord.engine import attention as attention
    from accord.engine import cache as cache
    from accord.engine import checkpoint as checkpoint
    from accord.engine import config as config
    from accord.engine import fit as fit
    from accord.engine import forward as forward
    from accord.engine import generate as generate
    from accord.engine import inside as inside
    from accord.engine import load as load
    from accord.engine import models as models
    from accord.engine import precision as precision
    from accord.engine import readout as readout
    from accord.engine import sampling as sampling
    from accord.engine import tiles as tiles
    from accord.engine import trees as trees
