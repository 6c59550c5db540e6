from .project import Project as Project
from .serve import listen as listen
from .serve import serve as serve
from .tasks import TASKS as TASKS
