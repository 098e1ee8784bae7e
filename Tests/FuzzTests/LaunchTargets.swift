// What a worker that was taken over says to its launcher, which is root: whatever is taken for a request
// is within its bounds, and is one way of writing it only.

import Launch

func fuzzLaunchRequests(_ bytes: [UInt8]) throws(BrokenPromise) {
    do throws(LaunchRefusal) {
        let request = try LaunchRequest(bytes)
        guard request.encoded() == bytes else { throw LaunchRefusal("\u{0}\(request)") }
        let isBounded =
            request.kept.count <= LaunchRequest.keptMax && !request.arguments.isEmpty
            && request.kept.allSatisfy { LaunchRequest.keptNumbers.contains($0) }
            && Set(request.kept).count == request.kept.count
            && request.arguments.count <= LaunchRequest.argumentsMax
            && request.arguments.allSatisfy {
                !$0.contains(0) && $0.count <= LaunchRequest.argumentByteCountMax
            } && request.standard.count == 3 && request.descriptorCount <= 27
        guard isBounded else { throw LaunchRefusal("\u{0}\(request)") }
    } catch {
        // One printable line goes to the worker's log; the zero marks what is no refusal.
        try promise(
            error.description.utf8.allSatisfy { (0x20...0x7E).contains($0) },
            error.description.debugDescription)
    }
    guard let reply = LaunchReply(bytes) else { return }
    if case .refused = reply { return }
    try promise(reply.encoded() == bytes, "\(reply) is written otherwise")
}
