// LIST: the files in the job's directory that a host asks for. A job may have made any tree there,
// so a search is bounded, and it is done in slices: the host is answered between them.

import Glibc
import Wire

/// The searches that are under way; one, unless a host is in a hurry.
struct Listings: ~Copyable {
    /// Entries looked at in one slice: a few milliseconds of a slow machine.
    private static let slice = 200

    private var searches: [Search] = []

    var isBusy: Bool { !searches.isEmpty }

    /// `given`: what PUT has left.
    mutating func begin(
        _ request: ListRequest, _ stream: UInt32, given: [[UInt8]: FileState]
    ) throws(WireError) {
        searches.append(try Search(request, stream, given))
    }
    mutating func removeAll() {
        for search in searches { search.close() }
        searches = []
    }

    /// A slice of the first search, and its answer when that was the last.
    mutating func advance(_ connection: inout GuestConnection) throws(WireError) {
        guard !searches.isEmpty else { return }
        for _ in 0..<Self.slice where !searches[0].isOver { searches[0].visitNext() }
        guard searches[0].isOver else { return }
        let search = searches.removeFirst()
        search.close()
        try connection.send(search.answer, on: search.stream)
    }
}

/// One walk through the tree, entry by entry.
@safe private struct Search {
    /// How much of a hostile tree is looked at.
    private static let visits = 50_000

    @safe private struct Directory {
        let stream: OpaquePointer
        let prefix: String
    }

    let stream: UInt32
    private var patterns: GuestPatterns
    private let limit: Int
    private let changesOnly: Bool
    private let given: [[UInt8]: FileState]
    private var visits = 0
    /// From the job's directory down to the one that is being read.
    private var directories: [Directory] = []
    /// What the frame still has room for.
    private var room = Limits.payloadByteCount - 16
    private var files: [ListedFile] = []
    private var isTruncated = false

    init(
        _ request: ListRequest, _ stream: UInt32, _ given: [[UInt8]: FileState]
    ) throws(WireError) {
        self.stream = stream
        self.given = given
        changesOnly = request.changesOnly
        patterns = try GuestPatterns(request.patterns)
        limit = Int(request.maximumEntries)
        enter(unsafe open(Boot.work, O_RDONLY | O_DIRECTORY | O_CLOEXEC), "")
    }
    func close() {
        for directory in directories { unsafe closedir(directory.stream) }
    }

    var isOver: Bool { isTruncated || directories.isEmpty }

    /// In an order that does not depend on the file system's.
    var answer: GuestMessage {
        .listed(files.sorted { $0.name < $1.name }, isTruncated: isTruncated)
    }

    /// Takes `file`.
    private mutating func enter(_ file: CInt, _ prefix: String) {
        guard file >= 0 else { return }
        if let stream = unsafe fdopendir(file) {
            unsafe directories.append(Directory(stream: stream, prefix: prefix))
        } else {
            Glibc.close(file)
        }
    }

    mutating func visitNext() {
        guard let directory = directories.last else { return }
        guard let entry = unsafe readdir(directory.stream) else {
            unsafe closedir(directory.stream)
            directories.removeLast()
            return
        }
        let segment = unsafe withUnsafePointer(to: entry.pointee.d_name) {
            unsafe String(
                validatingCString: UnsafeRawPointer($0).assumingMemoryBound(to: CChar.self))
        }
        guard let segment, segment != ".", segment != ".." else { return }
        visits += 1
        guard visits <= Self.visits else {
            isTruncated = true
            return
        }
        let above = unsafe dirfd(directory.stream)
        var status = stat()
        guard unsafe fstatat(above, segment, &status, AT_SYMLINK_NOFOLLOW) == 0 else { return }
        switch status.st_mode & S_IFMT {
        case S_IFREG: add(directory.prefix + segment, status)
        case S_IFDIR where changesOnly && GuestPath.isSetAside(directory: segment): break
        case S_IFDIR where directories.count < Limits.pathSegments:
            let flags = O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC
            enter(unsafe openat(above, segment, flags), directory.prefix + segment + "/")
        default: break
        }
    }

    private mutating func add(_ path: String, _ status: stat) {
        if changesOnly, given[Array(path.utf8)] == FileState(status) { return }
        // A name that the protocol cannot carry cannot be asked for either.
        guard GuestPath.isValid(path) else { return }
        do throws(WireError) {
            guard try patterns.matches(path) else { return }
        } catch {
            isTruncated = true
            return
        }
        let cost = path.utf8.count + 10
        guard files.count < limit, cost <= room else {
            isTruncated = true
            return
        }
        room -= cost
        files.append(ListedFile(name: path, byteCount: UInt64(status.st_size)))
    }
}
