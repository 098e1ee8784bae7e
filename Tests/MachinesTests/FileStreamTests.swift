// Files that stream into a machine and out of it: the same bytes whatever their size, and a program
// never starts with files that are not whole.

import Events
import Synchronization
import Testing

@testable import Machines

extension RealMachineTests {
    @Suite("A file that streams", .serialized)
    struct FileStreamTests {
        private static let part = ByteSink.partByteCount

        /// Zeros and their digest, so many of them, part by part.
        private func source(_ count: Int) -> ByteSource {
            let digest = RunningDigest()
            for start in stride(from: 0, to: count, by: Self.part) {
                digest.update([UInt8](repeating: 7, count: min(Self.part, count - start)))
            }
            return ByteSource(byteCount: count, sha256: digest.finish()) { offset in
                [UInt8](repeating: 7, count: min(Self.part, count - offset))
            }
        }

        @Test func `arrives whole and comes back whole, in parts of one size`() async throws {
            let parts = Mutex<[Int64: [(offset: Int, count: Int)]]>([:])
            let sink = ByteSink { part, offset, byteCount, number in
                parts.withLock { parts in
                    let number = number ?? Int64(parts.count + 1)
                    parts[number, default: []].append((offset, part.count))
                    return number
                }
            }
            let counts = [0, 1, Self.part - 1, Self.part, Self.part + 1, 3 * Self.part + 5]
            let run = try await TestImage.run(.bash(source: "mkdir out; mv [0-9]* out")) { job in
                job.files = counts.map { GuestFile(name: "\($0)", source: source($0)) }
                job.outputs = ["out/*"]
                job.sink = sink
            }
            #expect(run.report.ending == .exited(code: 0))
            let files = Dictionary(
                uniqueKeysWithValues: run.report.files.map { ($0.name, $0) })
            for count in counts {
                let file = try #require(files["out/\(count)"], "\(count)")
                #expect(file.byteCount == count)
                #expect(file.sha256 == source(count).sha256)
                guard case .stored(let number) = file.content else {
                    #expect(count <= Self.part)  // small ones are held
                    continue
                }
                #expect(count > Self.part)
                let stored = parts.withLock { $0[number] ?? [] }
                #expect(stored.map(\.offset) == Array(stride(from: 0, to: count, by: Self.part)))
                #expect(stored.reduce(0) { $0 + $1.count } == count)
            }
        }

        @Test func `that is wrong or not there starts no program`() async throws {
            var wrong = source(2 * Self.part)
            wrong.sha256 = String(repeating: "0", count: 64)
            let gone = ByteSource(byteCount: 2 * Self.part, sha256: wrong.sha256) {
                offset throws(TransferError) in
                guard offset == 0 else { throw .gone("it was removed") }
                return [UInt8](repeating: 7, count: Self.part)
            }
            let short = ByteSource(byteCount: 2 * Self.part, sha256: wrong.sha256) { _ in [] }
            let away = ByteSource(byteCount: 9, sha256: wrong.sha256) {
                _ throws(TransferError) in
                throw .failed("the storage is away")
            }
            let reasons: [(ByteSource, MachineError.Reason)] = [
                (wrong, .inputUnavailable), (gone, .inputUnavailable),
                (short, .inputUnavailable), (away, .storageFailed),
            ]
            for (source, reason) in reasons {
                let begun = Mutex(false)
                let job = GuestJob(
                    program: .bash(source: "echo begun"),
                    files: [GuestFile(name: "in", source: source)])
                let host = try await TestImage.host()
                do throws(MachineError) {
                    _ = try await host.run(job, image: TestImage.name) { _, _ in
                        begun.withLock { $0 = true }
                    }
                    Issue.record("\(reason) is not noticed")
                } catch { #expect(error.reason == reason, "\(error)") }
                #expect(!begun.withLock { $0 })
            }
        }

        @Test func `that cannot be stored is our failure, and its machine goes`() async throws {
            var job = GuestJob(
                program: .bash(source: "head -c 600000 /dev/zero > out"), outputs: ["out"])
            job.sink = ByteSink { _, offset, _, _ throws(TransferError) in
                if offset > 0 { throw .failed("the disk is full") }
                return 1
            }
            let host = try await TestImage.host()
            do throws(MachineError) {
                _ = try await host.run(job, image: TestImage.name)
                Issue.record("nobody noticed")
            } catch {
                #expect(error.reason == .storageFailed)
                #expect(error.description.contains("the disk is full"))
            }
            #expect(await host.machineCount == 0)
        }

        @Test func `that does not fit the machine is named`() async throws {
            let host = try await TestImage.host()
            let memory = try await host.image(TestImage.name, generation: nil).manifest.definition
                .memory
            let source = source(memory.bytes / 2)
            let job = GuestJob(
                program: .bash(source: "true"),
                files: [GuestFile(name: "in/large.bin", source: source)])
            do throws(MachineError) {
                _ = try await host.run(job, image: TestImage.name)
                Issue.record("it fits")
            } catch {
                #expect(error.reason == .diskFull, "\(error)")
                #expect(error.description.contains("in/large.bin"))
            }
        }
    }
}
