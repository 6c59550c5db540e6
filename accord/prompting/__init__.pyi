from . import journal as journal
from . import limits as limits
from . import local as local
from . import options as options
from . import requests as requests
from . import served as served
from . import server as server
