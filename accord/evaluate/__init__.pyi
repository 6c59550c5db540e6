from .agreement import evaluate_agreement as evaluate_agreement
from .comparisons import evaluate_comparisons as evaluate_comparisons
from .frontier import evaluate_frontier as evaluate_frontier
from .judge import evaluate_judge as evaluate_judge
from .models import evaluate_models as evaluate_models
from .overoptimization import evaluate_overoptimization as evaluate_overoptimization
from .passes import evaluate_passes as evaluate_passes
from .tasks import evaluate_tasks as evaluate_tasks
