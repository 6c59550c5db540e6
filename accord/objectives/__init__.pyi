from . import advantages as advantages
from . import kl as kl
from . import policy as policy
from . import preference as preference
from . import segments as segments
from . import selection as selection
