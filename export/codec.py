"""The same as `mimo-codec export codec`: python export/codec.py nano -o nano-onnx"""

import sys

from mimo_codec.cli.main import main

if __name__ == "__main__":
    main(["export", "codec", *sys.argv[1:]])
