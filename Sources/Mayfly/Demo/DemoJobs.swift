// The jobs that `mayfly demo` enqueues, as the SQL that a backend would write, and what must come
// of each. Data only.

/// One job of the demo.
struct DemoJob: Sendable {
    var title: String
    /// What another job's SQL calls it.
    var name = ""
    /// Answers one row with the job's id.
    var sql: String
    var state = "succeeded"
    /// What `error.reason` must be.
    var reason: String?
    /// What stdout must be, or `nil` when it may be anything.
    var stdout: String?
    /// What must be in `result.value`, as JSON text.
    var text: [String] = []
    /// A file that must come back.
    var file: String?
}

extension DemoJob {
    static let all: [DemoJob] = [
        DemoJob(
            title: "one INSERT",
            sql: #"""
                insert into mayfly.job (kind, payload)
                values ('code', '{"language":"python","source":"print(6*7)"}')
                returning id
                """#,
            stdout: "42\n"),
        DemoJob(
            title: "pandas sums up a CSV file",
            sql: #"""
                select mayfly.enqueue('code', jsonb_build_object(
                    'language', 'python',
                    'source', $$
                import pandas
                sales = pandas.read_csv("sales.csv")
                print(sales.groupby("city")["amount"].agg(["count", "sum", "mean"]).round(2))
                $$,
                    'files', jsonb_build_array(jsonb_build_object('name', 'sales.csv', 'text',
                $$city,amount
                Oslo,120.5
                Lima,80
                Oslo,99.5
                Kyoto,310
                Lima,45.25
                $$))))
                """#),
        DemoJob(
            title: "matplotlib draws a plot, which comes back as a blob",
            sql: #"""
                select mayfly.enqueue('code', jsonb_build_object(
                    'language', 'python',
                    'outputs', '["*.png"]'::jsonb,
                    'source', $$
                import matplotlib
                matplotlib.use("Agg")
                import matplotlib.pyplot as plot
                import numpy
                x = numpy.linspace(0, 10, 400)
                plot.figure(figsize=(6.4, 4.8), dpi=100)
                plot.plot(x, numpy.sin(x) * numpy.exp(-x / 5))
                plot.title("damped")
                plot.savefig("plot.png")
                print("drawn")
                $$), timeout => '2 min')
                """#,
            stdout: "drawn\n", file: "plot.png"),
        DemoJob(
            title: "JavaScript in Node",
            sql: #"""
                select mayfly.enqueue('code', $${
                    "language": "node",
                    "args": ["agents"],
                    "source": "console.log(`hello ${process.argv[2]}, ${[3, 1, 2].sort()}`)"}$$)
                """#,
            stdout: "hello agents, 1,2,3\n"),
        DemoJob(
            title: "bash, with standard input and an environment variable",
            sql: #"""
                select mayfly.enqueue('code', $${
                    "language": "bash",
                    "stdin": "pear\napple\nfig\n",
                    "env": {"GREETING": "sorted"},
                    "source": "echo $GREETING; sort"}$$)
                """#,
            stdout: "sorted\napple\nfig\npear\n"),
        DemoJob(
            title: "a program that fails keeps what it printed",
            sql: #"""
                select mayfly.enqueue('code', $${
                    "language": "python",
                    "source": "print('so far so good')\nraise SystemExit('no such account')"}$$)
                """#,
            state: "failed", reason: "exit_nonzero", stdout: "so far so good\n"),
        DemoJob(
            title: "a program that never ends is stopped",
            sql: #"""
                select mayfly.enqueue('code', $${
                    "language": "python", "source": "while True: pass"}$$,
                    timeout => '2 s')
                """#,
            state: "failed", reason: "timeout"),
        DemoJob(
            title: "a payload that cannot be right uses no machine",
            sql: #"""
                select mayfly.enqueue('code', $${
                    "language": "python", "source": "",
                    "files": [{"name": "../x", "text": ""}]}$$)
                """#,
            state: "failed", reason: "invalid_payload"),
    ]

    /// Different in each run: blobs outlive the demo, and this one must not be there yet.
    private static let mark = String(UInt64.random(in: 1...UInt64.max))

    /// Fails at first: its input is not stored yet.
    static let early = DemoJob(
        title: "a job whose input is not there yet fails; stored and replayed, it succeeds",
        sql: #"""
            select mayfly.enqueue('code', jsonb_build_object(
                'language', 'bash', 'source', 'wc -l < late.txt',
                'files', jsonb_build_array(jsonb_build_object('name', 'late.txt',
                    'blob', encode(sha256($$one
            \#(mark)
            $$), 'hex')))))
            """#,
        state: "failed", reason: "blob_missing")
    static let repair = #"""
        select mayfly.put_blob($$one
        \#(mark)
        $$)
        """#
    static func replay(of id: Int64) -> DemoJob {
        DemoJob(title: "its replay", sql: "select mayfly.replay(\(id))", stdout: "2\n")
    }
}
