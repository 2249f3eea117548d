"""No file is longer than a reader takes in: 450 lines."""

import pytest
from conftest import ROOT

LONGEST = 450
FILES = sorted(path for folder in ("mimo_codec", "tests") for path in (ROOT / folder).rglob("*.py"))


@pytest.mark.skipif(not (ROOT / "mimo_codec").is_dir(), reason="the tests alone, beside an installed package")
def test_no_file_is_long():
    long = {str(path.relative_to(ROOT)): path.read_text(encoding="utf-8").count("\n") for path in FILES}
    assert not {name: lines for name, lines in long.items() if lines > LONGEST}, "split them by concept"
