"""No file is longer than a reader takes in, 450 lines, and no two test files have one name, which pytest refuses."""

from collections import Counter

import pytest
from conftest import ROOT

LONGEST = 450
FILES = sorted(path for folder in ("mimo_codec", "tests") for path in (ROOT / folder).rglob("*.py"))


@pytest.mark.skipif(not (ROOT / "mimo_codec").is_dir(), reason="the tests alone, beside an installed package")
def test_no_file_is_long():
    long = {str(path.relative_to(ROOT)): path.read_text(encoding="utf-8").count("\n") for path in FILES}
    assert not {name: lines for name, lines in long.items() if lines > LONGEST}, "split them by concept"


def test_no_two_test_files_have_one_name():
    names = Counter(path.name for path in FILES if path.name.startswith("test_"))
    assert [name for name, count in names.items() if count > 1] == []
