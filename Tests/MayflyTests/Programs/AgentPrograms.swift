// Programs as agents write them for hosted interpreters, and what those give for them.

import StrictJSON

@testable import Mayfly

extension SampleProgram {
    private static let csv: JSON = [
        "files": [["name": "sales.csv", "text": "city,amount\nOslo,120.5\nLima,80\nOslo,99.5\n"]]
    ]

    static let charts = [
        SampleProgram(
            "two charts, one shown, one left open",
            """
            import matplotlib.pyplot as plt
            plt.plot([1, 2, 3], [1, 4, 9], label="squares")
            plt.legend()
            plt.show()
            fig, ax = plt.subplots()
            ax.bar(["a", "b"], [3, 4])
            print("drawn")
            """
        ) {
            $0.stdout = "drawn\n"
            $0.displays = [["image/png", "text/plain"], ["image/png", "text/plain"]]
            $0.files = ["display-1.png", "display-2.png"]
        },
        SampleProgram(
            "a figure as the last expression, savefig after show, the backend chosen by hand",
            """
            import matplotlib
            matplotlib.use("Agg")
            import matplotlib.pyplot as plt
            plt.plot([1, 2]); plt.show(); plt.savefig("mine.png")
            fig, ax = plt.subplots()
            ax.scatter([1, 2], [3, 4])
            fig
            """
        ) {
            $0.text = "<Figure size 640x480 with 1 Axes>"
            $0.displays = [["image/png", "text/plain"], ["image/png", "text/plain"]]
            $0.files = ["display-1.png", "display-2.png", "mine.png"]
        },
    ]

    static let tables = [
        SampleProgram(
            "a data frame grouped, as the last expression",
            """
            import pandas as pd
            df = pd.read_csv("sales.csv")
            df.groupby("city")["amount"].agg(["count", "sum"])
            """, more: csv
        ) {
            $0.json = [
                ["city": "Lima", "count": 1, "sum": .number("80.0")],
                ["city": "Oslo", "count": 2, "sum": .number("220.0")],
            ]
            $0.displays = [["text/plain", "text/html"]]
            $0.files = []
        },
        SampleProgram(
            "a given file rewritten, one made, one left alone, what is hidden left out",
            """
            import os, pandas as pd
            df = pd.read_csv("sales.csv")
            df["tax"] = df.amount * 0.25
            df.to_csv("sales.csv", index=False)
            os.makedirs("out/__pycache__"); open("out/report.txt", "w").write("done")
            for name in (".cache", "out/__pycache__/a.pyc"): open(name, "w").write("x")
            len(df)
            """,
            more: [
                "files": [
                    ["name": "sales.csv", "text": "city,amount\nOslo,4\n"],
                    ["name": "same.txt", "text": "same"],
                ]
            ]
        ) {
            $0.json = 1
            $0.files = ["sales.csv", "out/report.txt"]
            $0.also = {
                $0["files"]?.elements.map { $0["status"]?.string } == ["new", "changed"]
            }
        },
        SampleProgram(
            "a series, and NaN, which JSON does not have",
            "import pandas as pd\npd.Series([1.5, None], index=['a', 'b'], name='v')"
        ) {
            $0.json = [
                ["index": "a", "v": .number("1.5")], ["index": "b", "v": .null],
            ]
            $0.displays = []
        },
    ]

    static let values = [
        SampleProgram("a dictionary", "x = {'a': [1, 2.5, None, True]}\nx") {
            $0.json = ["a": [1, .number("2.5"), .null, true]]
            $0.text = "{'a': [1, 2.5, None, True]}"
        },
        SampleProgram("a set is text only", "{1}") {
            $0.text = "{1}"
            $0.also = { $0["value"]?["json"] == nil && $0["value"]?["type"] == "set" }
        },
        SampleProgram("what prints has no value", "print(6*7)") {
            $0.stdout = "42\n"
            $0.hasNoValue = true
        },
        SampleProgram(
            "an array in a fresh interpreter", "import numpy as np\nnp.arange(4).reshape(2, 2)",
            more: ["interpreter": "fresh"]
        ) {
            $0.json = [[0, 1], [2, 3]]
            $0.also = { $0["timings"]?["interpreter"] == "cold" }
        },
        SampleProgram(
            "await outside a function",
            "import asyncio\nasync def f():\n    await asyncio.sleep(0)\n    return 5\nawait f()"
        ) { $0.json = 5 },
        SampleProgram(
            "display() of HTML and Markdown, by IPython's names",
            """
            from IPython.display import HTML, Markdown, display
            display(HTML("<b>x</b>"), Markdown("# a"))
            """
        ) { $0.displays = [["text/plain", "text/html"], ["text/plain", "text/markdown"]] },
        SampleProgram(
            "an image of Pillow's", "from PIL import Image\nImage.new('RGB', (64, 64), 'red')"
        ) {
            $0.displays = [["text/plain", "image/png"]]
            $0.files = ["display-1.png"]
        },
        SampleProgram("with value none it runs untouched", "41 + 1", more: ["value": "none"]) {
            $0.hasNoValue = true
        },
    ]

    static let failures = [
        SampleProgram(
            "an exception deep in a function",
            "def f(x):\n    return 1 / x\n\nprint('so far')\nopen('part.txt', 'w').write('p')\nf(0)"
        ) {
            $0.reason = "exit_nonzero"
            $0.stdout = "so far\n"
            $0.exception = ("ZeroDivisionError", 2)
            $0.files = ["part.txt"]
        },
        SampleProgram("a syntax error", "x = 1\nif x\n  y") {
            $0.reason = "exit_nonzero"
            $0.exception = ("SyntaxError", 2)
        },
        SampleProgram("a module that the image lacks", "import no_such_module_here") {
            $0.reason = "exit_nonzero"
            $0.message = "add its package to image.code.packages"
            $0.exception = ("ModuleNotFoundError", 1)
        },
        SampleProgram(
            "a loop that hits its timeout says where it was, and keeps its files",
            "open('part.txt', 'w').write('p')\ndef spin():\n    while True:\n        pass\nspin()"
        ) {
            $0.timeout = .seconds(20)
            $0.reason = "timeout"
            $0.files = ["part.txt"]
            $0.also = {
                // The loop's first line or its body.
                $0["stderr"]?.string?.contains("in spin") == true
                    && $0["exception"]?["type"] == "KeyboardInterrupt"
                    && [3, 4].contains($0["exception"]?["line"]?.int)
            }
        },
    ]

    static let node = [
        SampleProgram(
            "a module with await outside a function", "node",
            """
            import { join } from "node:path";
            const words = await Promise.resolve(["a", "b"]);
            console.log(join(...words));
            ({ words, n: words.length })
            """
        ) {
            $0.stdout = "a/b\n"
            $0.json = ["words": ["a", "b"], "n": 2]
            $0.files = []
        },
        SampleProgram(
            "an async main() at the end", "node",
            "async function main() {\n  await null;\n  return [1, 'b'];\n}\nmain();"
        ) { $0.json = [1, "b"] },
        SampleProgram(
            "a last line that prints and then has a value", "node",
            "const x = 6;\nconsole.log('x'); x * 7"
        ) {
            $0.stdout = "x\n"
            $0.json = 42
        },
        SampleProgram(
            "an exception", "node",
            "const f = () => {\n  throw new RangeError('no');\n};\nconsole.log('so far');\nf();"
        ) {
            $0.reason = "exit_nonzero"
            $0.stdout = "so far\n"
            $0.exception = ("RangeError", 2)
        },
        SampleProgram("require of a package that the image lacks", "node", "require('nope-x')") {
            $0.reason = "exit_nonzero"
            $0.message = "the image code has no module nope-x"
            $0.exception = ("Error", 1)
        },
        SampleProgram(
            "a fresh one writes a file", "node",
            "const fs = require('fs');\nfs.writeFileSync('o.json', '{}');\nnew Map([[1, 2]])",
            more: ["interpreter": "fresh"]
        ) {
            $0.text = "Map(1) { 1 => 2 }"
            $0.files = ["o.json"]
        },
    ]

    static let typescript = SampleProgram(
        "types are stripped", "typescript",
        """
        interface Item { name: string; n: number }
        const items: Item[] = [{ name: "a", n: 2 }, { name: "b", n: 40 }];
        const sum = <T>(all: T[], by: (x: T) => number): number => all.reduce((s, x) => s + by(x), 0);
        sum<Item>(items, (item) => item.n)
        """
    ) { $0.json = 42 }
    /// In an image with an older node.
    static let typescriptRefused = SampleProgram(
        "TypeScript says what it needs", "typescript", "const a: number = 1;"
    ) {
        $0.reason = "exit_nonzero"
        $0.message = "the image needs node 22.13 or newer"
    }

    /// Importing scikit-learn is 42 s of processor time under emulation, which others may want, too.
    private static let importTimeout = Duration.seconds(600)

    /// What the image has beyond an interpreter, each part used for what it is there for.
    static let libraries = [
        SampleProgram(
            "a model fitted by scikit-learn, a root found by SciPy",
            """
            import numpy as np
            from scipy import optimize
            from sklearn.linear_model import LinearRegression
            x = np.arange(10.0).reshape(-1, 1)
            model = LinearRegression().fit(x, 3 * x.ravel() + 2)
            root = optimize.brentq(lambda v: v * v - 4, 0, 5)
            [round(float(v), 6) for v in (model.coef_[0], model.intercept_, root)]
            """
        ) {
            $0.timeout = importTimeout
            $0.json = [.number("3.0"), .number("2.0"), .number("2.0")]
        },
        SampleProgram(
            "a graph, an equation, a workbook there and back, a table as text, a page taken apart",
            """
            import networkx as nx, pandas as pd, sympy
            from bs4 import BeautifulSoup
            pd.DataFrame({"city": ["Oslo"], "n": [2]}).to_excel("b.xlsx", index=False)
            print(pd.read_excel("b.xlsx").to_markdown(index=False))
            graph = nx.Graph([("a", "b"), ("b", "c"), ("a", "d")])
            x = sympy.symbols("x")
            {
                "path": nx.shortest_path(graph, "c", "d"),
                "roots": sorted(int(root) for root in sympy.solve(x**2 - 9)),
                "text": BeautifulSoup("<p>One <b>two</b></p>", "lxml").b.text,
            }
            """
        ) {
            $0.timeout = importTimeout
            $0.stdout = "| city   |   n |\n|:-------|----:|\n| Oslo   |   2 |\n"
            $0.json = ["path": ["c", "b", "a", "d"], "roots": [-3, 3], "text": "two"]
            $0.files = ["b.xlsx"]
        },
        SampleProgram(
            "text searched by ripgrep; pip and npm are there", "bash",
            """
            printf 'one\ntwo\n' > a.txt; rg -n two a.txt; rm a.txt
            python3 -m pip --version | cut -d ' ' -f 1
            npm --version | grep -cE '^[0-9]+[.]'
            """
        ) { $0.stdout = "2:two\npip\n1\n" },
    ]

    static let steps = [
        SampleProgram(
            "several steps share the directory",
            payload: [
                "setup": ["language": "bash", "source": "echo 6 > six.txt"],
                "steps": [
                    [
                        "language": "python",
                        "source":
                            "n = int(open('six.txt').read())\nopen('n.txt', 'w').write(str(n * 7))\nn",
                    ],
                    ["language": "bash", "source": "echo oops >&2; exit 3", "continue": true],
                    ["language": "node", "source": "+require('fs').readFileSync('n.txt', 'utf8')"],
                ],
            ]
        ) {
            $0.json = 42
            $0.files = ["six.txt", "n.txt"]
            $0.also = {
                let steps = $0["steps"]?.elements ?? []
                return steps.map { $0["exit_code"]?.int } == [0, 0, 3, 0]
                    && steps[1]["value"]?["json"] == 6 && steps[2]["stderr"] == "oops\n"
            }
        },
        SampleProgram(
            "the first step that fails ends the job",
            payload: [
                "steps": [
                    ["language": "python", "source": "print(1)\nraise ValueError('no')"],
                    ["language": "bash", "source": "echo never"],
                ]
            ]
        ) {
            $0.reason = "exit_nonzero"
            $0.message = "step 1 of 2: python ended with exit code 1: ValueError: no"
            $0.stdout = "1\n"
            $0.exception = ("ValueError", 2)
        },
        SampleProgram(
            "a step that stands in the next one's way fails the job, not the machine",
            payload: [
                "steps": [
                    ["language": "bash", "source": "mkdir main.py"],
                    ["language": "python", "source": "1"],
                ]
            ]
        ) {
            $0.reason = "exit_nonzero"
            $0.message = "main.py cannot be written"
        },
    ]

    static let all = charts + tables + values + failures + node + libraries + steps
}
