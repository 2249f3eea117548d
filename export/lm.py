"""The same as `mimo-codec export lm`: python export/lm.py MODEL -o lm-onnx"""

import sys

from mimo_codec.cli.main import main

if __name__ == "__main__":
    main(["export", "lm", *sys.argv[1:]])
