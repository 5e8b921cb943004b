"""The gates of a report as JUnit XML, which continuous integration shows: one suite, one case a gate.

A gate that failed is a failure. One that is undecided is an error, so that a run whose number went missing is red as well.
"""

from __future__ import annotations

import re
from typing import Any
from xml.etree import ElementTree

from streamloss.reporting.gates import told
from streamloss.reporting.units import printable

_FORBIDDEN = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")  # by XML 1.0, §2.2


def encode(report: dict[str, Any]) -> bytes:
    """The XML of a report's gates, in UTF-8."""
    gates = report["gates"]
    counts = {
        "tests": len(gates),
        "failures": sum(gate["outcome"] == "fail" for gate in gates),
        "errors": sum(gate["outcome"] == "undecided" for gate in gates),
        "skipped": 0,
    }
    attributes = {"name": f"streamloss {report['command']}", **{name: str(count) for name, count in counts.items()}}
    root = ElementTree.Element("testsuites", attributes)
    seconds = (report.get("run") or {}).get("seconds")
    suite = ElementTree.SubElement(root, "testsuite", attributes | ({} if seconds is None else {"time": f"{seconds:.3f}"}))
    for gate in gates:
        case = ElementTree.SubElement(suite, "testcase", {"classname": "streamloss.gates", "name": _allowed(gate["rule"])})
        if gate["outcome"] != "pass":
            failed = gate["outcome"] == "fail"
            said = {"type": gate["outcome"], "message": _allowed(told(gate))}
            ElementTree.SubElement(case, "failure" if failed else "error", said)
    lines = [f"digest {report['digest']}", *(f"input {printable(entry['path'])}" for entry in report.get("inputs") or [])]
    ElementTree.SubElement(suite, "system-out").text = _allowed("\n".join(lines))
    ElementTree.indent(root)
    data: bytes = ElementTree.tostring(root, encoding="utf-8", xml_declaration=True)
    return data + b"\n"


def _allowed(text: str) -> str:
    """The text without the characters that XML has no way to hold."""
    return _FORBIDDEN.sub("", text)
