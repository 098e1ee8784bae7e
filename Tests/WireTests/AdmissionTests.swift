// Who may speak to a machine over AF_VSOCK, where anybody on the host can connect: the worker that has
// invited itself over the port, and nobody else at any point of a machine's life.

import Testing

@testable import Wire

@Suite("Admission over AF_VSOCK")
struct AdmissionTests {
    private static let invitation = Invitation(port: 70_000, token: Samples.token)
    private static func preamble(token: [UInt8] = Samples.token) throws -> [UInt8] {
        try HostPreamble(nonce: Samples.nonce, token: token).encode()
    }
    private static func receive(
        _ bytes: [UInt8], _ number: Int32, _ admission: inout HostAdmission
    ) -> HostAdmission.Verdict {
        admission.receive(bytes, from: number)
    }
    private static func undecided(_ count: Int) throws -> [UInt8] {
        Array(try preamble().prefix(count))
    }

    /// What a stranger on the host may send, who does not have the token.
    static let strangers: [(String, [UInt8])] = {
        var almost = Samples.token
        almost[31] ^= 1
        let good = (try? preamble()) ?? []
        return [
            ("zeros", [UInt8](repeating: 0, count: 96)),
            ("a token of zeros", (try? preamble(token: [UInt8](repeating: 0, count: 32))) ?? []),
            ("a token with one wrong bit", (try? preamble(token: almost)) ?? []),
            ("the right token under a wrong checksum", good.dropLast() + [good[95] ^ 1]),
            ("an invitation of its own", ((try? invitation.encode()) ?? []) + good.prefix(48)),
            ("frames", [UInt8](repeating: 0, count: 12 * 8)),
        ]
    }()

    @Test(arguments: strangers.indices)
    func `refuses a stranger, whatever it sends`(index: Int) throws {
        let (name, bytes) = Self.strangers[index]
        for size in [1, 40, 96] {
            var admission = HostAdmission(token: Self.invitation.token)
            #expect(admission.open(5) == nil)
            var verdict = HostAdmission.Verdict.undecided
            for start in stride(from: 0, to: 96, by: size) {
                #expect(verdict == .undecided, "\(name)")
                let piece = Array(bytes[start..<min(96, start + size)])
                verdict = Self.receive(piece, 5, &admission)
            }
            #expect(verdict == .refused, "\(name)")
            #expect(admission.undecided == [])
            // Nothing more is heard from it.
            #expect(admission.missing(5) == 0)
            #expect(Self.receive(try Self.preamble(), 5, &admission) == .refused)
        }
    }

    @Test func `lets the worker in past strangers that hold their connections`() throws {
        var admission = HostAdmission(token: Self.invitation.token)
        for number: Int32 in 1...7 {
            #expect(admission.open(number) == nil)
            #expect(
                Self.receive(try Self.undecided(Int(number)), number, &admission) == .undecided)
        }
        #expect(admission.open(8) == nil)
        // One more pushes out the one that has waited longest.
        #expect(admission.open(9) == 1)
        #expect(admission.missing(8) == 96)
        let preamble = try Self.preamble()
        #expect(Self.receive(Array(preamble[..<50]), 8, &admission) == .undecided)
        #expect(admission.missing(8) == 46)
        #expect(Self.receive(Array(preamble[50...]), 8, &admission) == .admitted(preamble))
        // The rest goes on waiting for nothing.
        #expect(admission.undecided == [2, 3, 4, 5, 6, 7, 9])
    }

    @Test func `forgets a connection that ends`() throws {
        var admission = HostAdmission(token: Self.invitation.token)
        _ = admission.open(3)
        #expect(Self.receive([], 3, &admission) == .refused)
        #expect(admission.undecided == [])
    }

    /// Admission reads the preamble; the session reads it again and holds its own check.
    @Test func `is not all that stands between a stranger and a session`() throws {
        for (token, isWorker) in [(Samples.token, true), (Samples.bytes(32), false)] {
            var guest = GuestConnection(agent: Samples.bytes(32), trust: .token(Samples.token))
            guest.receive(try Self.preamble(token: token))
            if isWorker {
                guard case .greeted? = try guest.next() else {
                    Issue.record("not greeted")
                    return
                }
            } else {
                #expect(throws: WireError.wrongToken) { _ = try guest.next() }
                #expect(guest.output.isEmpty)
            }
        }
    }

    @Test func `is named over the port only`() throws {
        let invitation = try Self.invitation.encode()
        for size in [1, 7, 48] {
            var port = GuestConnection(agent: Samples.bytes(32), trust: .theWay)
            var events: [GuestConnection.Event] = []
            for start in stride(from: 0, to: 48, by: size) {
                port.receive(Array(invitation[start..<min(48, start + size)]))
                while let event = try port.next() { events.append(event) }
            }
            #expect(events == [.invited(Self.invitation)])
            // A worker without AF_VSOCK greets on the port itself.
            port.receive(try Self.preamble())
            guard case .greeted? = try port.next() else {
                Issue.record("not greeted")
                return
            }
        }
        var socket = GuestConnection(agent: Samples.bytes(32), trust: .token(Samples.token))
        socket.receive(invitation + invitation)
        #expect(throws: WireError.self) { _ = try socket.next() }
        // Not even by the worker itself, once it has come.
        var session = GuestConnection(agent: Samples.bytes(32), trust: .token(Samples.token))
        session.receive(try Self.preamble())
        _ = try session.next()
        session.receive(invitation)
        #expect(throws: WireError.self) { _ = try session.next() }
        #expect(throws: WireError.self) {
            _ = try Invitation(port: 1023, token: Samples.token).encode()
        }
    }
}
