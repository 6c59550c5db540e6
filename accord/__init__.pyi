from .cli.aggregate import aggregate as aggregate
from .cli.alarms import alarms as alarms
from .cli.annotate_curve import learning_curve as learning_curve
from .cli.critique import critique as critique
from .cli.doctor import doctor as doctor
from .cli.inspect import inspect as inspect
from .cli.instruct import instruct as instruct
from .cli.label import label as label
from .cli.new import new_model as new_model
from .cli.new import tokenizer as tokenizer
from .cli.pipeline import run_pipeline as run_pipeline
from .cli.plan import plan as plan
from .cli.push import export as export
from .cli.push import merge as merge
from .cli.push import push as push
from .cli.sample import sample as sample
from .cli.score import score as score
from .cli.sweep import sweep as sweep
from .cli.tasks import tasks as tasks
from .cli.world import world as world
from .data.load import load_data as load_data
from .engine.load import load_model as load_model
from .engine.load import load_preference_model as load_preference_model
from .engine.load import load_reward_model as load_reward_model
from .report.page import write_report as write_report
from .train.callback import AlarmCallback as AlarmCallback

__version__: str
