// How an attempt ended and what it leaves behind. Made by whoever ran it, stored by Queue.

package enum Outcome: Sendable {
    case succeeded(Report)
    /// The job's own failure: final, unless the job asked for more attempts.
    case failed(Failure, Report?)
    /// Our failure: tried again with growing pauses, poison after some; costs the job nothing.
    case lost(Failure, Report? = nil)
    /// This worker shuts down: the job goes back to its place at once, and loses nothing.
    case interrupted
    /// Somebody cancelled the job.
    case cancelled(Report? = nil)

    /// As `mayfly.settle` calls it, and as the log says it.
    package var how: String {
        switch self {
        case .succeeded: "succeeded"
        case .failed: "failed"
        case .lost: "lost"
        case .interrupted: "interrupted"
        case .cancelled: "cancelled"
        }
    }
    package var failure: Failure? {
        switch self {
        case .failed(let failure, _), .lost(let failure, _): failure
        case .succeeded, .interrupted, .cancelled: nil
        }
    }
    package var report: Report? {
        switch self {
        case .succeeded(let report): report
        case .failed(_, let report), .lost(_, let report), .cancelled(let report): report
        case .interrupted: nil
        }
    }
}

/// What a worker says of its host.
package enum HostState: String, Sendable {
    case ok
    /// It lost several attempts in a row and claims nothing until a machine can be restored.
    case ill
}

package enum Settlement: Sendable, Equatable {
    /// The job has ended: succeeded, failed or cancelled.
    case stored(state: String)
    /// It will be tried again after a pause.
    case retried
    case givenBack
    /// The attempt was not held any more; nothing was stored.
    case fenced
}

package struct Failure: Error, Sendable, Equatable, CustomStringConvertible {
    package let reason: Reason
    package let message: String
    package init(_ reason: Reason, _ message: String) {
        self.reason = reason
        self.message = message
    }
    package var description: String { "\(reason.rawValue): \(message)" }
}

/// The closed list of `mayfly.reason`, which says what each means.
package enum Reason: String, Sendable, CaseIterable {
    case exitNonzero = "exit_nonzero"
    case signalled
    case timeout
    case outOfMemory = "out_of_memory"
    case diskFull = "disk_full"
    case outputLimit = "output_limit"
    case invalidPayload = "invalid_payload"
    case blobMissing = "blob_missing"
    case blobUnavailable = "blob_unavailable"
    case secretUnreadable = "secret_unreadable"
    case guestProtocolViolation = "guest_protocol_violation"
    case unsupportedFormat = "unsupported_format"
    case formatMismatch = "format_mismatch"
    case documentDamaged = "document_damaged"
    case documentEncrypted = "document_encrypted"
    case wrongPassword = "wrong_password"
    case pageRange = "page_range"
    case expansionLimit = "expansion_limit"
    case pixelLimit = "pixel_limit"
    case converterCrashed = "converter_crashed"
    case packageUnavailable = "package_unavailable"
    case urlRefused = "url_refused"
    case navigationFailed = "navigation_failed"
    case redirectLoop = "redirect_loop"
    case httpStatus = "http_status"
    case actionFailed = "action_failed"
    case waitFailed = "wait_failed"
    case pageUnresponsive = "page_unresponsive"
    case pageCrashed = "page_crashed"
    case dialogStorm = "dialog_storm"
    case pageStorm = "page_storm"
    case downloadLimit = "download_limit"
    case networkDenied = "network_denied"
    case machineLost = "machine_lost"
    case hypervisorMemory = "hypervisor_memory"
    case restoreFailed = "restore_failed"
    case imageMissing = "image_missing"
    case secretKeyMissing = "secret_key_missing"
    case leaseLost = "lease_lost"
    case deadlineExceeded = "deadline_exceeded"
    case storeFailed = "store_failed"
    case `internal`
    case interrupted
    case cancelled
    case poison

    /// Ours, not the job's: tried again by itself.
    ///
    /// The same as `whose = 'ours'` in `mayfly.reason`.
    package var isOurs: Bool {
        switch self {
        case .machineLost, .hypervisorMemory, .restoreFailed, .imageMissing, .secretKeyMissing,
            .leaseLost, .deadlineExceeded, .storeFailed, .internal:
            true
        default: false
        }
    }
    /// Running the same job again could end differently.
    package var isRetryable: Bool {
        switch self {
        case .invalidPayload, .blobMissing, .secretUnreadable, .unsupportedFormat, .formatMismatch,
            .documentDamaged, .documentEncrypted, .wrongPassword, .pageRange, .expansionLimit,
            .pixelLimit,
            .packageUnavailable, .urlRefused, .networkDenied:
            false
        default: true
        }
    }
}

/// What one attempt leaves.
package struct Report: Sendable {
    /// JSON text: the job's `result`, without the bytes of its files.
    package var result: String?
    /// Stored in the transaction that stores the result, or not at all.
    package var blobs: [Blob] = []
    package var machine: String?
    package var generation: String?
    package var seed: [UInt8]?
    /// Nanoseconds since 1970.
    package var clock: Int64?
    /// JSON text.
    package var timings: String?
    /// JSON text.
    package var usage: String?
    package var logTail: String?
    /// Of a loss: whether the host had finished or restored something since its loss before.
    ///
    /// Only then the loss speaks against the job, as a step towards `poison`.
    package var isHostProven = false

    package init(result: String? = nil, blobs: [Blob] = []) {
        self.result = result
        self.blobs = blobs
    }
}

/// A file of the result: its address, and its bytes if they are few, or where they were uploaded.
package struct Blob: Sendable {
    package enum Content: Sendable {
        /// At most `JobFiles.partByteCount`; the database checks that their address is right.
        case bytes([UInt8])
        /// The number that ``JobFiles/append(_:at:of:to:)`` gave them.
        case upload(Int64)
    }
    /// SHA-256 as 64 lower-case hexadecimal digits.
    package let sha256: String
    package let byteCount: Int
    package let content: Content

    package init(sha256: String, bytes: [UInt8]) {
        precondition(
            bytes.count <= JobFiles.partByteCount, "\(bytes.count) bytes are no small blob")
        self.sha256 = sha256
        byteCount = bytes.count
        content = .bytes(bytes)
    }
    package init(sha256: String, upload: Int64, byteCount: Int) {
        self.sha256 = sha256
        self.byteCount = byteCount
        content = .upload(upload)
    }
}
