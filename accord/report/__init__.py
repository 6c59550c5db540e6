"""HTML reports: `write_report(folder)` for a run or a pipeline, `write_comparison(folders, out)` for several."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
