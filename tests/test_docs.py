"""The documentation has the sections that the code cites."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
CITATION = re.compile(r"docs/method\.md((?:,? (?:and |to )?\d+(?:\.\d+)?)*)")


def test_cited_sections_of_the_method_exist():
    headings = re.findall(r"^##+ (\d+(?:\.\d+)?)\.? ", (ROOT / "docs/method.md").read_text(), re.MULTILINE)
    cited = 0
    for path in [*ROOT.glob("i2r/**/*.py"), *ROOT.glob("tests/*.py")]:
        for sections in CITATION.findall(path.read_text()):
            for number in re.findall(r"\d+(?:\.\d+)?", sections):
                assert number in headings, f"{path.relative_to(ROOT)}: docs/method.md has no section {number}"
                cited += 1
    assert cited > 30
