// A text that must not be seen: opened from a payload, or on its way into one. It prints as dots,
// whatever prints it, and its memory is wiped when nobody has it any more.

import CCrypto

/// A secret in the clear.
package struct Secret: Sendable {
    /// What stands where a secret would.
    package static let dots = "•••••"

    private let storage: WipedBytes

    package init(_ bytes: [UInt8]) { storage = WipedBytes(bytes) }
    package init(_ text: String) { self.init(Array(text.utf8)) }

    package var byteCount: Int { storage.count }
    /// A copy: hold it no longer than needed.
    package var bytes: [UInt8] { storage.copy }
    /// As text that a program can be given: UTF-8 without zero bytes; `nil` for anything else.
    package var text: String? {
        let bytes = bytes
        return bytes.contains(0) ? nil : String(validating: bytes, as: UTF8.self)
    }
}

extension Secret: CustomStringConvertible, CustomDebugStringConvertible, CustomReflectable {
    package var description: String { Self.dots }
    package var debugDescription: String { Self.dots }
    package var customMirror: Mirror { Mirror(self, children: []) }
}

/// Bytes that are overwritten before their memory is given back.
// SAFETY: written by init alone; every later access only reads.
@safe private final class WipedBytes: @unchecked Sendable {
    private let memory: UnsafeMutableRawBufferPointer
    var count: Int { unsafe memory.count }
    var copy: [UInt8] { unsafe Array(memory) }

    init(_ bytes: [UInt8]) {
        unsafe memory = .allocate(byteCount: bytes.count, alignment: 1)
        unsafe memory.copyBytes(from: bytes)
    }
    deinit {
        unsafe OPENSSL_cleanse(memory.baseAddress, memory.count)
        unsafe memory.deallocate()
    }
}

/// Why a secret cannot be used, as a sentence without its subject.
package enum SecretError: Error, Sendable, Equatable, CustomStringConvertible {
    /// It is no secret of the form that is read here.
    case malformed(String)
    /// It has the form, and was changed, or is not for this job.
    case unreadable(String)
    /// The key is not on this host; the secret may be well.
    case keyMissing(String)

    package var description: String {
        switch self {
        case .malformed(let sentence), .unreadable(let sentence), .keyMissing(let sentence):
            sentence
        }
    }
}
