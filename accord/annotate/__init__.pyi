from .project import Project as Project
from .serve import listen as listen
from .serve import serve as serve
from .statistics import status as status
from .tasks import TASKS as TASKS
