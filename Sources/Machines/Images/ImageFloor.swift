// How old an image may be on this host: a number for each image and hypervisor that only rises. An
// image that was good once and is not any more (a hole in what it holds) keeps its signature; once
// a newer one was in use here, nobody brings it back by a copy or a link.

import CLinux
import Foundation
import Glibc
import Processes

/// One image's floor.
package struct ImageFloor: Sendable, Codable, Equatable {
    /// No generation with a lower epoch is restored.
    package var epoch: Int
    /// What it was before somebody lowered it, and when; gone when it rises again.
    package var loweredFrom: Int?
    package var loweredAt: String?
}

/// The floors under one state directory.
///
/// Every change is made under a lock, from what is there by then: a worker that was paused in the
/// middle of one cannot bring an old floor back.
struct ImageFloors: Sendable {
    let directory: String

    private func path(_ name: String, _ hypervisor: HypervisorName) -> String {
        "\(directory)/\(name).\(hypervisor)"
    }

    /// An ordinary file.
    ///
    /// The directory can be the worker's own, and root reads it: no link is followed, and nothing
    /// waits for the other end of a pipe.
    private static func open(_ path: String, _ flags: CInt) throws(SystemError) -> Descriptor {
        let file = try Descriptor.open(path, flags | O_NOFOLLOW | O_NONBLOCK)
        var status = stat()
        guard unsafe fstat(file.number, &status) == 0, status.st_mode & S_IFMT == S_IFREG else {
            throw SystemError("take for an ordinary file", path, EINVAL)
        }
        return file
    }
    private static func read(_ path: String) throws(SystemError) -> Data {
        let file = try open(path, O_RDONLY)
        var bytes = [UInt8](repeating: 0, count: 4096)
        let count = unsafe pread(file.number, &bytes, bytes.count, 0)
        guard count >= 0 else { throw SystemError("read", path) }
        return Data(bytes[..<count])
    }

    /// - Throws: `imageRefused` when there is one that cannot be read: then nobody knows it.
    func floor(of name: String, for hypervisor: HypervisorName) throws(MachineError) -> ImageFloor {
        let path = path(name, hypervisor)
        let contents: Data
        do throws(SystemError) { contents = try Self.read(path) } catch {
            if error.code == ENOENT { return ImageFloor(epoch: 0) }
            throw MachineError(.imageRefused, "\(error)")
        }
        guard let floor = try? JSONDecoder().decode(ImageFloor.self, from: contents) else {
            throw MachineError(
                .imageRefused,
                "\(path) is damaged; set it anew with `mayfly image floor \(name) --to EPOCH`")
        }
        return floor
    }

    /// - Throws: `imageRefused` when this generation is older than one that was in use here.
    func check(_ manifest: Manifest) throws(MachineError) {
        let name = manifest.definition.name
        let floor = try floor(of: name, for: manifest.hypervisor)
        guard manifest.age < floor.epoch else { return }
        throw MachineError(
            .imageRefused,
            "generation \(manifest.generation) of \(name) has the epoch \(manifest.age), and one "
                + "of \(floor.epoch) was in use here: an old image may have old holes; build it "
                + "again, or lower it: `mayfly image floor \(name) --to \(manifest.age)`"
        )
    }

    /// This generation is in use: nothing older will be from now on.
    func raise(_ manifest: Manifest) throws(MachineError) {
        let (name, hypervisor) = (manifest.definition.name, manifest.hypervisor)
        guard try floor(of: name, for: hypervisor).epoch < manifest.age else { return }
        try change(name, hypervisor) { floor throws(MachineError) in
            if floor.epoch < manifest.age { floor = ImageFloor(epoch: manifest.age) }
        }
    }

    /// An operator's word, whatever it was; told by `mayfly image floor` until it rises again.
    func set(
        _ name: String, _ hypervisor: HypervisorName, to epoch: Int
    ) throws(MachineError) -> ImageFloor {
        var result = ImageFloor(epoch: epoch)
        try change(name, hypervisor, isRepair: true) { floor throws(MachineError) in
            if epoch < floor.epoch {
                result.loweredFrom = max(floor.epoch, floor.loweredFrom ?? 0)
                result.loweredAt = ISO8601DateFormatter().string(from: Date())
            }
            floor = result
        }
        return result
    }

    private func change(
        _ name: String, _ hypervisor: HypervisorName, isRepair: Bool = false,
        _ body: (inout ImageFloor) throws(MachineError) -> Void
    ) throws(MachineError) {
        try makeDirectory(directory)
        let lockFile = "\(directory)/.lock"
        let lock = try attempting(Self.open(lockFile, O_RDWR | O_CREAT))
        // Held for as long as a small file takes to be written.
        let deadline = ContinuousClock.now + .seconds(10)
        while flock(lock.number, LOCK_EX | LOCK_NB) != 0 {
            guard errno == EINTR || errno == EWOULDBLOCK, .now < deadline else {
                throw MachineError(SystemError("lock", lockFile))
            }
            usleep(10_000)
        }
        var floor = ImageFloor(epoch: 0)
        do throws(MachineError) { floor = try self.floor(of: name, for: hypervisor) } catch {
            guard isRepair else { throw error }
        }
        let before = floor
        try body(&floor)
        guard floor != before || isRepair else { return }
        guard let bytes = try? JSONEncoder().encode(floor) else { return }
        try writeFile(path(name, hypervisor), [UInt8](bytes) + [0x0A], mode: 0o644)
    }
}

extension Manifest {
    /// Its epoch; those that were built before there were epochs are older than all.
    var age: Int { epoch ?? 0 }
}

extension ImageStore {
    var floors: ImageFloors { ImageFloors(directory: "\(stateDirectory)/floors") }

    package func floor(
        of name: String, for hypervisor: HypervisorName
    ) throws(MachineError) -> ImageFloor { try floors.floor(of: name, for: hypervisor) }
    package func setFloor(
        of name: String, for hypervisor: HypervisorName, to epoch: Int
    ) throws(MachineError) -> ImageFloor { try floors.set(name, hypervisor, to: epoch) }
}
