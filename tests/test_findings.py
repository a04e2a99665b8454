from nnunet_mtl.findings import Finding, one_line, report


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
