"""What the mini benchmarks hold, drawn anew, for other machines to compare with."""

import json

import numpy as np
import PIL

from hired_eval.mini import HASHES, THUMBNAILS
from hired_eval.mini.benchmarks import ROWS, Content

contents = {task: Content.of(list(rows())) for task, rows in ROWS.items()}
libraries = {"pillow": PIL.__version__, "numpy": np.__version__}
HASHES.write_text(
    json.dumps({task: found.whole for task, found in contents.items()} | libraries, indent=1) + "\n"
)
texts = {f"{task} text": np.array(found.text) for task, found in contents.items()}
np.savez_compressed(THUMBNAILS, **{task: found.thumbnails for task, found in contents.items()}, **texts)
