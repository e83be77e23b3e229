"""Convert ShareGPT4V (or LLaVA-1.5) from the original LLaVA layout to the stock layout of transformers.

python scripts/convert_sharegpt4v.py ShareGPT4V-7B sharegpt4v-7b-hf --vision-tower VISION_TOWER
python -m hired_eval model=sharegpt4v_7b model.path=sharegpt4v-7b-hf
"""

import argparse
import sys
from pathlib import Path

from hired_eval.errors import UserError
from hired_eval.models.convert import convert


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("source", type=Path, help="folder of the original checkpoint")
    parser.add_argument("target", type=Path, help="folder to write, which must not exist")
    parser.add_argument(
        "--vision-tower", type=Path, help="folder of the vision tower, where not found by itself"
    )
    parser.add_argument(
        "--allow-pickle", action="store_true", help="read *.bin files: tensors alone, nothing that runs code"
    )
    arguments = parser.parse_args()
    try:
        convert(
            arguments.source,
            arguments.target,
            vision_tower=arguments.vision_tower,
            allow_pickle=arguments.allow_pickle,
        )
    except UserError as error:
        sys.exit(f"error: {error}")
    print(f"written: {arguments.target}; evaluate it with model=sharegpt4v_7b model.path={arguments.target}")


if __name__ == "__main__":
    main()
