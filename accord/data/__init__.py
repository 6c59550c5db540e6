"""Files and hubs to records, and records to trees; its modules are imported when first used."""

from typing import TYPE_CHECKING

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submodules=["chat", "conventions", "encoding", "examples", "judgments", "load", "readers", "tasks"],
    submod_attrs={"encoding": ["Order"], "load": ["load_data", "load_prompts"]},
)

if TYPE_CHECKING:
    from accord.data import chat as chat
    from accord.data import conventions as conventions
    from accord.data import encoding as encoding
    from accord.data import examples as examples
    from accord.data import judgments as judgments
    from accord.data import load as load
    from accord.data import readers as readers
    from accord.data import tasks as tasks
    from accord.data.encoding import Order as Order
    from accord.data.load import load_data as load_data
    from accord.data.load import load_prompts as load_prompts
