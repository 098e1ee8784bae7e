// Context ids of vsock: each is one machine's, whoever else wants it. Only where /dev/vhost-vsock is.

import CLinux
import Events
import Foundation
import Processes
import Testing
import Wire

@testable import Machines

@Suite("A vsock context id", .enabled(if: TestImage.hasVsock, TestImage.noVsock))
struct VsockTests {
    @Test func `is given to one taker, however many race for it`() async throws {
        for _ in 0..<20 {
            let id = 1_000_000 + UInt32.random(in: 0..<1_000_000)
            let takers = (0..<8).map { _ in
                Task { try await offload { try VsockContext.take(id) } }
            }
            var contexts: [VsockContext] = []
            for taker in takers {
                if let context = try await taker.value { contexts.append(context) }
            }
            #expect(contexts.map(\.id) == [id])
        }
    }

    @Test func `is taken while anybody holds its device, and free afterwards`() throws {
        var first: VsockContext? = try VsockContext.take()
        let id = try #require(first).id
        #expect(try VsockContext.take(id) == nil)
        // As a hypervisor inherits it.
        let inherited = first.map { Descriptor(dup($0.descriptor.number)) }
        first = nil
        #expect(try VsockContext.take(id) == nil)
        drop(inherited)
        #expect(try VsockContext.take(id) != nil)
    }

    @Test func `a machine's context id is never one with a meaning of its own`() throws {
        for _ in 0..<50 {
            let context = try VsockContext.take()
            #expect((3...0x7FFF_FFFF).contains(context.id))
        }
    }

    private func drop(_ descriptor: consuming Descriptor?) {}
}

extension RealMachineTests {
    /// Anybody on the host can connect to any machine's context id.
    @Suite(
        "A machine over AF_VSOCK", .enabled(if: TestImage.isOverVsock, TestImage.noVsock),
        .serialized)
    struct StrangerTests {
        @Test func `listens to nobody but its worker, at any point of its life`() async throws {
            try await Self.restored()
        }

        @LoopActor
        private static func restored() async throws {
            let host = try await TestImage.host()
            let image = try await host.image(TestImage.name, generation: nil)
            let standby = try await host.spawnStandby(of: image)
            let qemu = try #require(standby.hypervisor as? QEMU)
            do {
                guard let contextID = qemu.vsock?.id else {
                    throw MachineError(.hostUnfit, "the image has vsock, its standby has none")
                }
                try await live(qemu, contextID, image)
            } catch {
                _ = await qemu.end()
                throw error
            }
            _ = await qemu.end()
        }

        @LoopActor
        private static func live(
            _ qemu: QEMU, _ contextID: UInt32, _ image: GoldenImage
        ) async throws {
            let limit = ContinuousClock.now + .seconds(120)
            try await qemu.restore(before: limit)
            // Before HELLO there is nobody to connect to.
            #expect(await Stranger.visit(contextID, 1024, saying: []) == .refused)

            let session = try await AgentSession.open(
                qemu, agent: image.manifest.agent, before: limit)
            let invitation = try #require(session.invitation)
            // The port is no secret once the worker has come: anybody may look at the host's sockets.
            let silent = await Stranger.hold(12, contextID, invitation.port)
            try await visits(contextID, invitation)
            try await session.ping(before: limit)
            _ = try await session.prepare(
                Freshness(pin: nil), id: "m-1", generation: "0", before: limit)
            try await visits(contextID, invitation)

            // Between PUT and EXEC.
            let stream = try session.open(.put(PutRequest(name: "secret", byteCount: 4)))
            try session.sendData(Array("kept".utf8)[...], on: stream, isFinal: true)
            guard case (stream, .ack(.ok, _)) = try await session.message(before: limit) else {
                Issue.record("the file was not stored")
                return
            }
            try await visits(contextID, invitation)

            // While the program runs, and while its files are collected: nobody listens any more.
            let started = Signal()
            var job = GuestJob(
                program: .bash(source: "echo on; cp secret out.txt; sleep 3; cat secret"),
                outputs: ["out.txt"], timeout: .seconds(60))
            job.limits.fileCount = 1
            let running = Task { @LoopActor [job] in
                try await session.run(job, onOutput: { _, _ in started.raise() })
            }
            await started.wait()
            #expect(await Stranger.visit(contextID, invitation.port, saying: []) == .refused)
            let report = try await running.value
            #expect(report.ending == .exited(code: 0))
            #expect(TestImage.text(report.stdout) == "on\nkept")
            #expect(report.files.map(\.bytes) == [Array("kept".utf8)])
            #expect(await Stranger.visit(contextID, invitation.port, saying: []) == .refused)
            for number in silent { close(number) }
        }

        /// Whatever it says, it hears nothing.
        @LoopActor
        private static func visits(_ contextID: UInt32, _ invitation: Invitation) async throws {
            var token = invitation.token
            token[0] ^= 1
            let nonce = randomBytes(32)
            var list: [UInt8] = []
            try HostMessage.list(ListRequest(patterns: ["**"], maximumEntries: 100))
                .encode(stream: 1, into: &list)
            for bytes in [
                [UInt8](repeating: 0, count: 96),
                try HostPreamble(nonce: nonce, token: token).encode() + list,
                try HostPreamble(nonce: nonce, token: [UInt8](repeating: 0, count: 32)).encode(),
                try Invitation(port: 5000, token: token).encode(),
            ] {
                let answer = await Stranger.visit(contextID, invitation.port, saying: bytes)
                #expect(answer != .answered)
            }
        }
    }
}

/// Another program on the host.
private enum Stranger {
    enum Reception { case refused, ignored, answered }

    /// Connects, says something, and waits for an answer or the end.
    static func visit(_ contextID: UInt32, _ port: UInt32, saying bytes: [UInt8]) async -> Reception
    {
        await offload {
            let number = mayfly_vsock_connect(contextID, port)
            guard number >= 0 else { return .refused }
            defer { close(number) }
            guard wait(number, POLLOUT), mayfly_socket_error(number) == 0 else { return .refused }
            _ = unsafe send(number, bytes, bytes.count, CInt(MSG_NOSIGNAL))
            guard wait(number, POLLIN) else { return .ignored }
            var answer = [UInt8](repeating: 0, count: 100)
            return unsafe read(number, &answer, answer.count) > 0 ? .answered : .ignored
        }
    }
    /// Connections that say nothing.
    static func hold(_ count: Int, _ contextID: UInt32, _ port: UInt32) async -> [CInt] {
        await offload {
            (0..<count).map { _ in
                let number = mayfly_vsock_connect(contextID, port)
                _ = wait(number, POLLOUT)
                return number
            }
        }
    }
    private static func wait(_ number: CInt, _ events: CInt) -> Bool {
        var entry = pollfd(fd: number, events: Int16(events), revents: 0)
        return unsafe poll(&entry, 1, 2000) > 0
    }
}
