from faults.cases import SKIPPED, Outcome, fault_summary, table


def test_the_table_counts_each_verdict_once() -> None:
    verdicts = ("used", "reported", "lost", "wrong", "crash", "hang", "unclear", SKIPPED)
    outcomes = [Outcome(verdict, "kind", verdict) for verdict in verdicts]
    own, everything = table(outcomes)
    assert own == everything | {"fault": "kind"}
    assert own["times tried"] == 7
    assert own["survived"] == 2
    others = ("used", "reported", "lost", "silently wrong", "crashes", "hangs", "unclear errors")
    assert all(own[column] == 1 for column in others)


def test_failures_and_what_was_not_tried_are_listed() -> None:
    outcomes = [
        Outcome("a", "x", "lost", "/tmp/a b/c/x.png differs"),
        Outcome("b", "y", SKIPPED, "no mounts"),
        Outcome("c", "y", "used"),
    ]
    summary = fault_summary(outcomes)
    assert summary["failed"] == 1
    assert [row["case"] for row in summary["tables"]["Not survived"]] == ["`a`"]
    assert summary["tables"]["Not survived"][0]["what happened"] == ".../a b.../x.png differs"
    assert summary["tables"]["Not tried"][0]["what happened"] == "no mounts"
    assert fault_summary(outcomes[2:])["tables"] == {}
