// The browse jobs that `mayfly demo` enqueues. Data only; `:server` is the demo's own.

extension DemoJob {
    /// As an operator would: jobs may reach what they ask for of this, and nothing else.
    static let ceiling = """
        select mayfly.allow_egress('default', '', array[':server'], array['127.0.0.0/8']::cidr[])
        """
    static let pages: [DemoJob] = [
        DemoJob(
            title: "a form is filled and sent, by a browser that was running before the job came",
            name: "form",
            sql: #"""
                select mayfly.enqueue('browse', jsonb_build_object(
                    'html', $$<!doctype html><title>Order</title>
                <style>body { font: 16px sans-serif }</style>
                <h1>Order</h1>
                <form onsubmit="event.preventDefault(); add(city.value, amount.value)">
                <label>City <input id=city></label>
                <label>Amount <input id=amount type=number></label>
                <button>Add</button></form>
                <table><thead><tr><th>City<th>Amount</thead><tbody id=rows></tbody></table>
                <script>
                function add(...cells) {
                    const row = rows.insertRow();
                    for (const cell of cells) row.insertCell().textContent = cell;
                }
                add('Oslo', 220);
                </script>$$,
                    'actions', jsonb_build_array(
                        jsonb_build_object('type', jsonb_build_array('label=City', '京都')),
                        jsonb_build_object('type', jsonb_build_array('label=Amount', '310')),
                        jsonb_build_object('click', 'role=button[name="Add"]')),
                    'return', '["title", "markdown", "snapshot", "screenshot"]'::jsonb),
                    timeout => '10 min')
                """#,
            text: ["| 京都", "| 310", "textbox \\\"City\\\""], file: "screenshot.png"),
        DemoJob(
            title: "a page of a server is fetched, its script runs, its form is sent",
            name: "order",
            sql: #"""
                select mayfly.enqueue('browse', '{
                    "url": "http://:server/order",
                    "actions": [
                        {"wait": {"text": "17 left"}},
                        {"screenshot": "order"},
                        {"type": ["label=Name", "Ada"]},
                        {"click": "role=button[name=\"Send\"]"},
                        {"wait": {"text": "Ada"}}],
                    "return": ["title", "markdown", "screenshot", "network"],
                    "network": {"allow": [":server"]}}', timeout => '10 min')
                """#,
            text: [#""title":"Thanks""#, "| Tea  | 4.50  |", "tracker.example:80"],
            file: "order.png"),
        DemoJob(
            title: "a page that no rule allows is not fetched", name: "denied",
            sql: #"""
                select mayfly.enqueue('browse', '{"url": "https://example.com/"}',
                    timeout => '10 min')
                """#,
            state: "failed", reason: "network_denied"),
    ]
}
