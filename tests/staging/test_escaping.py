"""Text of a file that reaches a page or a message: nothing of it is taken for markup, however long or odd it is."""

import re
from hashlib import sha256

import pytest
from conftest import Database, Files
from support.bucket_files import write_customers
from support.steps import CUSTOMERS, Run, load_customers

pytestmark = pytest.mark.slow

ROWS = 200
LONG = "".join(sha256(bytes([n])).hexdigest() for n in range(100))  # too long for a key, also compressed
HOSTILE = {
    "# big": "U+0023U+0020big",
    "|a|b|": "U+007CaU+007CbU+007C",
    "<b>x": "U+003CbU+003Ex",
    "`x`": "U+0060xU+0060",
    "a\nb": "aU+000Ab",
    "\x1b[31m": "U+001BU+005B31m",
    "\u202ex": "U+202Ex",
    "www.a.io": "wwwU+002EaU+002Eio",
    "@all": "U+0040all",
    "É": "É",
    **dict.fromkeys(("![x](https://evil.example/x.png)", "[x](https://evil.example)", LONG), "(longer text)"),
}


def write(files: Files, letters: list[str]) -> None:
    quoted = ['"' + letter.replace('"', '""') + '"' for letter in letters]
    profiles = (f"{n},1,{quoted[n % len(quoted)]},x" for n in range(ROWS))
    write_customers(files, profiles, (f"{n},2020-01-01,,1,1" for n in range(ROWS)), (f"{n},0" for n in range(ROWS)))


def test_letters_of_a_file_are_shown_without_markup(database: Database, files: Files) -> None:
    write(files, ["A"])
    load_customers(database)
    write(files, list(HOSTILE))
    run = Run(database, CUSTOMERS, asks=True)
    run.run(*run.tasks[: run.tasks.index("publish_customers")])
    load = run.loads["stage_customer_profiles"]
    columns = "question, figures, anomalies, status"
    [(*texts, status)] = database.run(f"select {columns} from pipeline.approval_requests where load_id = {load}")
    assert status == "pending_approval"
    for text in texts:
        for hostile, shown in HOSTILE.items():
            assert hostile == shown or hostile not in text
            assert f"share of attr_b {shown}" in text
        assert "evil" not in text
        assert re.search(r"[\x00-\x09\x0b-\x1f\x7f\u202e]", text) is None
    # A line for each measure: rows, A, and the eleven ways in which the letters are shown.
    _, figures, anomalies = texts
    table = [line for line in figures.splitlines() if line.startswith("|")]
    assert all(line.count("|") == 6 for line in table)
    assert len([line for line in table if "share of attr_b" in line]) == 1 + len(set(HOSTILE.values()))
    assert "\n" not in anomalies

    database.run(f"select pipeline.decide_load({load}, true, 'a person')")
    run.run("publish_customers")
    of_letters = f"from pipeline.column_profiles where load_id = {load} and column_name = 'attr_b'"
    [(counts,)] = database.run(f"select counts {of_letters}")
    assert set(counts) == set(HOSTILE.values())
    # The table itself has the file's text.
    assert database.run("select count(distinct attr_b) from customer_profiles") == [(len(HOSTILE),)]
