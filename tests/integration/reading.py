"""Read by the python of a container: prints what every file below the folders of argv says, as JSON by path."""

import json
import sys
from pathlib import Path

files = (path for folder in sys.argv[1:] for path in Path(folder).rglob("*") if path.is_file())
print(json.dumps({str(path): path.read_text("utf-8", "replace") for path in files}))
