// The streams of real machines, through their real agents, to servers of the test: what programs see,
// what is left of them at the end, and that one job's network costs another job nothing.

import Foundation
import Glibc
import Testing
import Wire

@testable import Machines

extension RealMachineTests {
    @Suite("The network of a job", .serialized)
    struct NetworkTests {
        private func run(
            _ program: GuestJob.Program, _ network: TestNetwork?, timeout: Duration = .seconds(120),
            _ change: @Sendable (inout GuestJob) -> Void = { _ in }
        ) async throws -> MachineRun {
            try await TestImage.run(program, timeout: timeout) { job in
                job.network = network?.handler
                change(&job)
            }
        }
        private func hasNothingOpen(_ network: TestNetwork) async throws -> Bool {
            let deadline = ContinuousClock.now + .seconds(30)
            while network.openCount > 0, .now < deadline {
                try await Task.sleep(for: .milliseconds(10))
            }
            return network.openCount == 0
        }

        @Test func `is what curl, Python and Node find without being told`() async throws {
            let network = TestNetwork(.http)
            // The lab's image has none.
            let hasNode = try await TestImage.parks("node")
            let curl = try await run(.bash(source: "curl -sS http://one.test/5; echo"), network)
            #expect(TestImage.text(curl.report.stdout) == "aaaaa\n")
            for isWarm in [true, false] {
                let python = try await run(
                    .python(
                        source: """
                            import urllib.request
                            print(urllib.request.urlopen("http://two.test/7").read().decode())
                            """), network
                ) { $0.usesParkedInterpreter = isWarm }
                #expect(
                    TestImage.text(python.report.stdout) == "aaaaaaa\n",
                    "\(TestImage.text(python.report.stderr))")
                guard hasNode else { continue }
                let node = try await run(
                    .node(
                        source: "console.log(await (await fetch('http://three.test/3')).text())"),
                    network
                ) { $0.usesParkedInterpreter = isWarm }
                #expect(
                    TestImage.text(node.report.stdout) == "aaa\n",
                    "\(TestImage.text(node.report.stderr))")
            }
            #expect(network.opened == Array(repeating: .proxy, count: hasNode ? 5 : 3))
            #expect(try await hasNothingOpen(network))
        }

        @Test func `answers for names, over UDP and TCP`() async throws {
            let network = TestNetwork(.echo)
            let run = try await run(
                .python(
                    source: """
                        import socket, struct
                        print(socket.getaddrinfo("a.test", 80, socket.AF_INET)[0][4][0])
                        print(socket.gethostbyname("b.test"))
                        s = socket.create_connection(("127.0.0.1", 53))
                        q = bytes.fromhex("beef0100000100000000000001630474657374000001" "0001")
                        s.sendall(struct.pack(">H", len(q)) + q)
                        n, = struct.unpack(">H", s.recv(2)); a = s.recv(n)
                        print(a[:2].hex(), socket.inet_ntoa(a[-4:]))
                        print(open("/etc/resolv.conf").read().strip())
                        """), network)
            #expect(
                TestImage.text(run.report.stdout)
                    == "192.0.2.7\n192.0.2.7\nbeef 192.0.2.7\nnameserver 127.0.0.1\n",
                "\(TestImage.text(run.report.stderr))")
            #expect(network.opened == [.names, .names])
        }

        @Test func `is refused at once where a job has none`() async throws {
            let source = """
                import socket, time
                def refused():
                    t = time.monotonic()
                    try: socket.getaddrinfo("a.test", 80)
                    except OSError as e: print("names:", type(e).__name__)
                    try: print("proxy:", socket.create_connection(("127.0.0.1", 3128)).recv(1))
                    except ConnectionError: print("proxy: closed")
                    return time.monotonic() - t
                # A resolver that nobody refuses takes five seconds each time.
                print(min(refused(), refused()) < 4)
                """
            let run = try await run(.python(source: source), nil)
            let text = TestImage.text(run.report.stdout)
            #expect(
                text == String(repeating: "names: gaierror\nproxy: closed\n", count: 2) + "True\n",
                "\(text) \(TestImage.text(run.report.stderr))")
        }

        @Test func `ends with its program: what one leaves open no other finds`() async throws {
            let network = TestNetwork(.silent)
            let source = """
                import socket, os
                s = [socket.create_connection(("127.0.0.1", 3128)) for _ in range(5)]
                for one in s: one.sendall(b"x")
                import time; time.sleep(0.5)
                print(len(s))
                """
            var step = GuestJob.Step(program: .python(source: source))
            step.usesParkedInterpreter = false
            let steps = [step]
            let run = try await run(.python(source: source), network) { $0.nextSteps = steps }
            #expect(run.report.steps.count == 2)
            #expect(run.report.ending == .exited(code: 0))
            #expect(network.opened.count == 10)
        }

        @Test func `serves more connections than may be open, some after others`() async throws {
            let network = TestNetwork(.http)
            let source = """
                import concurrent.futures, urllib.request
                def get(n): return len(urllib.request.urlopen(f"http://x.test/{n}").read()) == n
                with concurrent.futures.ThreadPoolExecutor(80) as pool:
                    print(sum(pool.map(get, range(1000, 1200))))
                """
            let run = try await run(.python(source: source), network)
            #expect(
                TestImage.text(run.report.stdout) == "200\n",
                "\(TestImage.text(run.report.stderr))")
            #expect(network.opened.count == 200)
            #expect(network.mostOpen <= Limits.networkStreams)
            #expect(try await hasNothingOpen(network))
        }

        /// Whoever holds all places holds them for himself alone.
        @Test func `is no way to exhaust the agent`() async throws {
            let network = TestNetwork(.silent)
            let source = """
                import socket, time
                held = []
                for n in range(3000):
                    s = socket.socket(); s.setblocking(False)
                    try: s.connect(("127.0.0.1", 3128))
                    except BlockingIOError: pass
                    except OSError as e: break
                    held.append(s)
                u = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
                for n in range(5000): u.sendto(b"x" * 40, ("127.0.0.1", 53))
                time.sleep(1)
                print("alive")
                """
            let worst = try await Heartbeat.worst { () async throws -> Void in
                let neighbour = Task { try await TestImage.run(.bash(source: "echo 42")) }
                let run = try await run(.python(source: source), network) {
                    $0.nextSteps = [GuestJob.Step(program: .bash(source: "echo next"))]
                }
                #expect(run.report.ending == .exited(code: 0))
                #expect(TestImage.text(try #require(run.report.steps.first).stdout) == "alive\n")
                #expect(TestImage.text(run.report.stdout) == "next\n")
                #expect(TestImage.text(try await neighbour.value.report.stdout) == "42\n")
            }
            #expect(network.opened.count <= Limits.networkStreams)
            #expect(worst.used < Heartbeat.turnMax, "\(worst)")
        }

        @Test func `moves 40 MB beside a small job, which notices nothing`() async throws {
            let network = TestNetwork(.http)
            let began = ContinuousClock.now
            var (took, small) = (Duration.zero, Duration.zero)
            let worst = try await Heartbeat.worst { () async throws -> Void in
                let neighbour = Task {
                    let began = ContinuousClock.now
                    let run = try await TestImage.run(.bash(source: "echo 42"))
                    return (TestImage.text(run.report.stdout), ContinuousClock.now - began)
                }
                let run = try await run(
                    .bash(source: "curl -sS http://x.test/40000000 | wc -c"), network,
                    timeout: .seconds(300))
                took = run.report.wall
                #expect(TestImage.text(run.report.stdout) == "40000000\n")
                let (text, time) = try await neighbour.value
                #expect(text == "42\n")
                small = time
            }
            print("40 MB in \(took), all in \(ContinuousClock.now - began); small job \(small)")
            print("the loop: \(worst)")
            #expect(worst.used < Heartbeat.turnMax, "\(worst)")
        }

        @Test func `takes bytes both ways at once, and sees each end by itself`() async throws {
            let network = TestNetwork(.echo)
            let source = """
                import socket, threading, hashlib, os
                s = socket.create_connection(("127.0.0.1", 3128))
                data = os.urandom(3_000_000)
                def up():
                    s.sendall(data); s.shutdown(socket.SHUT_WR)
                t = threading.Thread(target=up); t.start()
                back = b""
                while piece := s.recv(65536): back += piece
                t.join()
                print(back == data)
                """
            let run = try await run(.python(source: source), network)
            #expect(
                TestImage.text(run.report.stdout) == "True\n",
                "\(TestImage.text(run.report.stderr))")
            #expect(try await hasNothingOpen(network))
        }

        @Test func `does not keep a job alive that is stopped, nor outlive it`() async throws {
            let network = TestNetwork(.flood)
            let run = try await run(
                .bash(source: "cat < /dev/tcp/127.0.0.1/3128 > /dev/null"), network,
                timeout: .seconds(2))
            #expect(run.report.ending == .timedOut)
            #expect(try await hasNothingOpen(network))
        }

        @Test func `holds up nobody while its machine stands still`() async throws {
            let network = TestNetwork(.flood)
            let host = try await TestImage.host()
            let before = await hypervisors(of: host)
            let running = Task {
                try await self.run(
                    .bash(source: "cat < /dev/tcp/127.0.0.1/3128 > /dev/null"), network,
                    timeout: .seconds(6))
            }
            let deadline = ContinuousClock.now + .seconds(30)
            while network.openCount == 0, .now < deadline {
                try await Task.sleep(for: .milliseconds(5))
            }
            // Standbys among them stand still, too; the next job takes another.
            let stopped = await hypervisors(of: host)
            for pid in stopped { kill(pid, SIGSTOP) }
            let worst = await Heartbeat.worst { try? await Task.sleep(for: .seconds(2)) }
            for pid in stopped { kill(pid, SIGCONT) }
            _ = before
            #expect(worst.used < Heartbeat.turnMax, "\(worst)")
            let report = try await running.value.report
            #expect(report.ending == .timedOut)
            #expect(try await hasNothingOpen(network))
        }
    }
}
