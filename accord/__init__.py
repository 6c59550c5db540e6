"""accord aligns language models with human preferences, end to end."""

from typing import TYPE_CHECKING

import lazy_loader

__version__ = "0.1.0"

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "cli.label": ["label", "score"],
        "cli.pipeline": ["run_pipeline"],
        "cli.sample": ["sample"],
        "data.load": ["load_data"],
        "engine.load": ["load_model", "load_preference_model", "load_reward_model"],
        "report.page": ["write_report"],
    },
)

if TYPE_CHECKING:
    from accord.cli.label import label as label
    from accord.cli.label import score as score
    from accord.cli.pipeline import run_pipeline as run_pipeline
    from accord.cli.sample import sample as sample
    from accord.data.load import load_data as load_data
    from accord.engine.load import load_model as load_model
    from accord.engine.load import load_preference_model as load_preference_model
    from accord.engine.load import load_reward_model as load_reward_model
    from accord.report.page import write_report as write_report
