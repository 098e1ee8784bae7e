// The programs of other packages that Machines runs: mmdebstrap, mke2fs, qemu --version.

import Events
import Processes

/// Runs one to its end.
@LoopActor
func runTool(
    _ request: ProgramRequest, onLine: (@Sendable (String) -> Void)? = nil
) async throws(MachineError) -> ProgramResult {
    do throws(ProgramError) { return try await runProgram(request, onLine: onLine) } catch {
        throw MachineError(error)
    }
}
@LoopActor
func runTool(
    _ arguments: [String], before deadline: ContinuousClock.Instant? = nil,
    onLine: (@Sendable (String) -> Void)? = nil
) async throws(MachineError) -> ProgramResult {
    var request = ProgramRequest(arguments)
    request.deadline = deadline
    return try await runTool(request, onLine: onLine)
}
