from nnunet_mtl.checks.findings import Finding, report
from nnunet_mtl.common.messages import one_line


def test_a_report_has_every_text_and_remedy_and_counts_the_levels():
    findings = [
        Finding("ok", "first"),
        Finding("problem", "second", "do this"),
        Finding("problem", "third"),
        Finding("warning", "x", "y"),
    ]
    assert report(iter(findings)).splitlines() == [
        "ok       first",
        "problem  second",
        "         -> do this",
        "problem  third",
        "warning  x",
        "         -> y",
        "4 findings, 2 of them problems, 1 warnings",
    ]


def test_an_error_is_told_on_one_line_also_without_a_message():
    assert one_line(ValueError("a\n  b\tc")) == "a b c"
    assert one_line(KeyError()) == "KeyError"


def test_the_first_details_are_told_or_all_that_are_asked_for():
    many, one = tuple("abcde"), ("only",)
    findings = [Finding("problem", "x", "do", many), Finding("warning", "y", details=many, told=0), Finding("ok", "z")]
    assert report(findings).splitlines() == [
        "problem  x",
        "            a",
        "            b",
        "            c",
        "            and 2 more, which --all lists",
        "         -> do",
        "warning  y",
        "ok       z",
        "3 findings, 1 of them problems, 1 warnings",
    ]
    assert report(findings, every_detail=True).count("            e\n") == 2
    assert "--all" not in report([Finding("problem", "x", details=one)])
