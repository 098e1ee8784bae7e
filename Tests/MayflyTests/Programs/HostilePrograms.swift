// Programs that turn what their job reports against it: none may harm more than its own words.

import StrictJSON

@testable import Mayfly

extension SampleProgram {
    private static func representation(_ body: String) -> String {
        "class A:\n    def __repr__(self):\n        \(body)\nA()"
    }

    static let hostile = [
        SampleProgram("a repr that loops", representation("while True: pass")) {
            $0.text = "<A: its repr did not end"
        },
        SampleProgram("a repr that raises", representation("raise ValueError")) {
            $0.text = "<A: its repr raises ValueError>"
        },
        SampleProgram("a repr that exits", representation("raise SystemExit(7)")) {
            $0.text = "<A: its repr raises SystemExit>"
        },
        SampleProgram("a repr of a gigabyte", representation("return 'x' * (1 << 30)")) {
            $0.text = "<A: its repr wants too much memory>"
        },
        SampleProgram("a value 100,000 deep", "x = []\nfor _ in range(10**5): x = [x]\nx") {
            $0.also = { $0["value"]?["type"] == "list" && $0["value"]?["json"] == nil }
        },
        SampleProgram("a list of a million", "list(range(10**6))") {
            $0.text = "[0, 1, 2,"
            $0.also = { ($0["value"]?.text.utf8.count ?? 0) < 200_000 }
        },
        SampleProgram(
            "a figure of 100,000 pixels",
            "import matplotlib.pyplot as p\np.figure(figsize=(1000, 1000)); p.plot([1]); p.show()"
        ) {
            $0.warnings = ["figure_scaled"]
            $0.files = ["display-1.png"]
        },
        SampleProgram(
            "stdout replaced, every descriptor taken, modules shadowed",
            """
            import io, os, sys
            sys.stdout = io.StringIO(); print("x")
            os.closerange(3, 4096)
            f = open("mine", "w")
            for n in range(4, 1100): os.dup2(f.fileno(), n)
            1 / 0
            """,
            more: [
                "files": [
                    ["name": "json.py", "text": "1/0"], ["name": "traceback.py", "text": "1/0"],
                    ["name": "_mayfly_rich.py", "text": "1/0"],
                ], "interpreter": "fresh",
            ]
        ) {
            $0.reason = "exit_nonzero"
            $0.files = ["mine"]
            $0.also = { $0["files"]?.elements.first?["size"] == 0 }
        },
        SampleProgram(
            "lies in the events",
            """
            import os
            for n in range(3, 1100):
                try:
                    if os.readlink(f"/proc/self/fd/{n}").startswith("pipe:"): break
                except OSError: pass
            for line in ('{"value": 1}', '{"display": {"source": "show", "data": {}}}', "{",
                    '{"display": {"source": "show", "data": {"image/png": {"file": "/etc/x"}}}}',
                    '{"warning": {"code": "macros_present", "message": "x"}}',
                    '{"exception": {"type": "E"}}', '{"value": ' + "[" * 100000):
                os.write(n, line.encode() + b"\\n")
            print("written")
            """
        ) {
            $0.stdout = "written\n"
            $0.hasNoValue = true
            $0.warnings = ["events_unreadable", "displays_dropped"]
            $0.also = { $0["exception"] == .null }
        },
        SampleProgram(
            "a flood of events",
            "import os\nwhile True: os.write(1000, b'{\"value\": 1}\\n' * 1000)"
        ) {
            $0.reason = "output_limit"
            $0.message = "events"
            $0.warnings = ["events_unreadable"]
        },
        SampleProgram("a flood of displays", "for i in range(300): display('x' * 30000)") {
            $0.warnings = ["displays_dropped"]
            $0.also = { ($0["displays"]?.elements.count ?? 0) <= 100 }
        },
        SampleProgram(
            "more files than may be kept, and one too large",
            """
            for i in range(120): open(f"f{i:03}", "w").write("x")
            with open("big", "wb") as f: f.truncate(1100 << 20)
            """
        ) {
            $0.also = {
                let skipped = $0["skipped_files"]?.elements ?? []
                return $0["files"]?.elements.count == 99 && skipped.count == 22
                    && skipped.first == [
                        "name": "big", "size": 1_153_433_600, "reason": "file_limit",
                    ]
                    && skipped.last?["reason"] == "count_limit"
            }
        },
        SampleProgram(
            "an inspector that loops", "node",
            "({ [require('util').inspect.custom]() { for (;;); } })"
        ) { $0.text = "<Object: it cannot be shown>" },
        SampleProgram(
            "JSON, Buffer and Array replaced", "node",
            "JSON.stringify = Array.prototype.map = () => 'hah';\n({ a: [1] })"
        ) { $0.also = { $0["value"]?["json"] == ["a": [1]] } },
    ]
}
