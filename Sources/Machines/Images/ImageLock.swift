// What is in use is not removed: whoever uses a directory of images or bases holds a shared lock on
// it, and whoever removes one takes it for himself first. The kernel drops a lock with its process.

import CLinux
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

    /// Runs `body`, which removes the directory, unless somebody uses it.
    ///
    /// - Returns: whether it was removed.
    static func removing(
        _ path: String, _ body: () throws(MachineError) -> Void
    ) throws(MachineError) -> Bool {
        guard let file = try? Descriptor.open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW) else {
            try body()  // a link or a file: nobody holds those
            return true
        }
        guard mayfly_try_lock(file.number) == 0 else { return false }
        try body()
        return true
    }
}
