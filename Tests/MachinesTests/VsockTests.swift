// Context ids of vsock: each is one machine's, whoever else wants it. Only where /dev/vhost-vsock is.

import Events
import Foundation
import Processes
import Testing

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

    @Test func `of a machine is never one with a meaning of its own`() throws {
        for _ in 0..<50 {
            let context = try VsockContext.take()
            #expect((3...0x7FFF_FFFF).contains(context.id))
        }
    }

    private func drop(_ descriptor: consuming Descriptor?) {}
}
