"""To be imported first by a benchmark: libraries are then looked for before the files beside it.

A script's own folder comes first, and datasets.py in this one would be taken for the library of that name.
"""

import sys
from pathlib import Path

_here = Path(__file__).resolve().parent
sys.path[:] = [path for path in sys.path if Path(path).resolve() != _here] + [str(_here)]
