"""Who says which completion is better: judges and rewards; its modules are imported when first used."""

from typing import TYPE_CHECKING

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submodules=[
        "ai",
        "combine",
        "formula",
        "functions",
        "judge",
        "learned",
        "mathematics",
        "named",
        "people",
        "reasoning",
        "remote",
        "reward",
        "verifiers",
    ],
)

if TYPE_CHECKING:
    from accord.feedback import ai as ai
    from accord.feedback import combine as combine
    from accord.feedback import formula as formula
    from accord.feedback import functions as functions
    from accord.feedback import judge as judge
    from accord.feedback import learned as learned
    from accord.feedback import mathematics as mathematics
    from accord.feedback import named as named
    from accord.feedback import people as people
    from accord.feedback import reasoning as reasoning
    from accord.feedback import remote as remote
    from accord.feedback import reward as reward
    from accord.feedback import verifiers as verifiers
