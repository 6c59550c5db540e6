"""Pages for people: `write_report(folder)` on a run or a pipeline, `write_comparison(folders, out)` on several."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
