// What is in use is not removed: whoever uses a directory of images or bases holds a shared lock on
// it, and whoever removes one takes it for himself first. The kernel drops a lock with its process.

import CLinux
import Foundation
import Glibc
import Processes

/// A shared lock on a directory, for as long as it lives.
final class ImageLock: Sendable {
    private let directory: Descriptor

    /// - Throws: `imageMissing` when the directory is gone, or is being removed.
    init(_ path: String) throws(MachineError) {
        guard let file = try? Descriptor.open(path, O_RDONLY | O_DIRECTORY),
            mayfly_try_share(file.number) == 0, Self.isStill(path, file.number)
        else {
            throw MachineError(
                .imageMissing, "\(path) is being removed; build it with `mayfly image build`")
        }
        directory = file
    }

    /// Whether the path names the open directory: it may have been removed before it was locked.
    private static func isStill(_ path: String, _ descriptor: CInt) -> Bool {
        var (open, named) = (stat(), stat())
        guard unsafe fstat(descriptor, &open) == 0, unsafe stat(path, &named) == 0 else {
            return false
        }
        return open.st_dev == named.st_dev && open.st_ino == named.st_ino
    }

    /// Makes a directory that nobody who removes what dead builds left can take away.
    static func making(_ path: String) throws(MachineError) -> ImageLock {
        for _ in 0..<100 {
            try makeDirectory(path)
            // Between the two a cleaner may have taken it for a dead build's.
            if let lock = try? ImageLock(path) { return lock }
        }
        return try ImageLock(path)
    }

    /// Runs `body`, which removes the directory, unless somebody uses it.
    ///
    /// It gets a hidden name first, by one rename: a removal that is killed halfway leaves nothing
    /// that could be taken for a whole image or base.
    ///
    /// - Returns: whether it was removed.
    static func removing(
        _ path: String, dryRun: Bool, _ body: (String) throws(MachineError) -> Void
    ) throws(MachineError) -> Bool {
        let file: Descriptor
        do throws(SystemError) {
            file = try Descriptor.open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW)
        } catch {
            if error.code == ENOENT { return true }
            guard error.code == ENOTDIR || error.code == ELOOP else { throw MachineError(error) }
            if !dryRun { try body(path) }  // a link or a file: nobody holds those
            return true
        }
        guard mayfly_try_lock(file.number) == 0, isStill(path, file.number) else { return false }
        if dryRun { return true }
        let url = URL(fileURLWithPath: path)
        let hidden =
            url.deletingLastPathComponent().path + "/.removed-" + hexText(randomBytes(6))
        guard unsafe rename(path, hidden) == 0 else {
            throw MachineError(SystemError("rename", path))
        }
        guard isStill(hidden, file.number) else {
            // A build has put another one in its place at this very moment.
            guard unsafe rename(hidden, path) == 0 else {
                throw MachineError(SystemError("rename to", path))
            }
            return false
        }
        try body(hidden)
        return true
    }
}
