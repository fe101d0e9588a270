"""Counts what the tiers of ./test did.

    test_summary.py FOLDER TIER...

Per tier the folder holds TIER.status (exit status) and either TIER.json (Bazel's build events) or TIER.checks (lines
"pass NAME" and "fail NAME"). Lists the failures, prints "N passed, N failed" as the last line and exits with 1 if there
is any.
"""

import json
import pathlib
import sys
import urllib.parse
import urllib.request
import xml.etree.ElementTree


def local_path(uri):
    return urllib.request.url2pathname(urllib.parse.urlparse(uri).path)


def cases_of(xml_path):
    """Yields (name, passed) for every test case that ran."""
    for case in xml.etree.ElementTree.parse(xml_path).iter("testcase"):
        if case.get("status") == "notrun" or case.find("skipped") is not None:
            continue
        failed = case.find("failure") is not None or case.find("error") is not None
        yield f'{case.get("classname", "")}.{case.get("name", "")}', not failed


class Tier:
    def __init__(self, name):
        self.name = name
        self.passed = 0
        self.failures = []

    def add(self, passed, what):
        if passed:
            self.passed += 1
        else:
            self.failures.append(f"{self.name}: {what}")

    def read_checks(self, path):
        for line in path.read_text().splitlines():
            verdict, _, what = line.partition(" ")
            self.add(verdict == "pass", what)

    def read_events(self, path):
        """One result per test case; one per target where there are no cases to count."""
        summaries = {}
        xmls = {}
        built = {}
        for line in path.read_text().splitlines():
            event = json.loads(line)
            ident = event.get("id", {})
            if "testResult" in ident and "testResult" in event:
                key = ident["testResult"]
                for output in event["testResult"].get("testActionOutput", []):
                    if output.get("name") == "test.xml" and "uri" in output:
                        # A later attempt of the same run replaces the earlier one.
                        run = (key.get("run", 1), key.get("shard", 1))
                        xmls.setdefault(key["label"], {})[run] = local_path(output["uri"])
            elif "testSummary" in ident:
                summaries[ident["testSummary"]["label"]] = event.get("testSummary", {}).get("overallStatus", "NO_STATUS")
            elif "targetCompleted" in ident:
                label = ident["targetCompleted"]["label"]
                built[label] = built.get(label, True) and event.get("completed", {}).get("success", False)
        for label, status in sorted(summaries.items()):
            self.add_test(label, status, xmls.get(label, {}).values())
        for label, success in sorted(built.items()):
            # A test that was built is counted by its cases; a library or program by being built.
            if label not in summaries:
                self.add(success, f"{label} (build)")

    def add_test(self, label, status, xml_paths):
        good = status in ("PASSED", "FLAKY")
        failures_before = len(self.failures)
        cases = 0
        for path in xml_paths:
            try:
                for name, passed in cases_of(path):
                    cases += 1
                    self.add(passed, f"{label} {name}")
            except (OSError, xml.etree.ElementTree.ParseError):
                pass  # a crash leaves no or half a file: the status below speaks
        if not good and len(self.failures) == failures_before:
            self.add(False, f"{label} ({status.lower().replace('_', ' ')})")
        elif good and cases == 0:
            self.add(True, label)


def read_tier(folder, name):
    tier = Tier(name)
    checks = folder / f"{name}.checks"
    events = folder / f"{name}.json"
    if checks.exists():
        tier.read_checks(checks)
    if events.exists():
        tier.read_events(events)
    status_file = folder / f"{name}.status"
    status = int(status_file.read_text()) if status_file.exists() else 1
    if status not in (0, 4) and not tier.failures:
        tier.failures.append(f"{name}: ended with status {status}")
    return tier


def main():
    folder = pathlib.Path(sys.argv[1])
    tiers = [read_tier(folder, name) for name in sys.argv[2:]]
    failures = [failure for tier in tiers for failure in tier.failures]
    for failure in failures:
        print(f"FAILED {failure}")
    print(f"{sum(tier.passed for tier in tiers)} passed, {len(failures)} failed")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
