// Which generation new machines are made from: loaded at the start, replaced while the host runs
// when a build has published another one, and only after a machine of that one has come to life.
// Machines that live keep theirs.

import Events
import Foundation
import Logging

/// A successor of the current generation that could not be used.
struct RefusedGeneration: Sendable {
    let identity: GenerationIdentity
    /// It does not match what was signed, or this host; otherwise this host was short of something.
    let isFinal: Bool
    let times: Int
    var at = ContinuousClock.now

    /// Another one at once; this one again after 10 s, 20 s … 5 min, if that can help.
    func mayBeTried(_ other: GenerationIdentity) -> Bool {
        if other != identity { return true }
        return !isFinal && .now > at + min(.seconds(10) * (1 << min(times - 1, 5)), .seconds(300))
    }
}

extension MachineHost {
    /// Whether a generation of this image is on this host, verified or not.
    package func hasImage(_ name: String) -> Bool {
        (try? store.directory(of: name, for: probe.profile.hypervisor)) != nil
    }

    /// The image of this name: the generation in use, or the one that a pinned replay wants.
    func image(_ name: String, generation: String?) async throws(MachineError) -> GoldenImage {
        if let generation {
            if let current = images[name], current.manifest.generation == generation {
                return current
            }
            if let pinned, pinned.manifest.definition.name == name,
                pinned.manifest.generation == generation
            {
                return pinned
            }
            let image = try await load(
                store.directory(
                    of: name, for: probe.profile.hypervisor, generation: generation),
                // Somebody asks for this very one, to see again what happened then.
                anyAge: settings.profile != .production)
            // One at most, for each holds a copy of its memory.
            pinned = image
            return image
        }
        if let image = images[name] { return image }
        let image = try await load(store.directory(of: name, for: probe.profile.hypervisor))
        try raiseFloor(to: image)
        images[name] = image
        return image
    }

    /// Nothing older than what is in use will be from now on.
    private func raiseFloor(to image: GoldenImage) throws(MachineError) {
        do throws(MachineError) { try store.floors.raise(image.manifest) } catch {
            // A floor that cannot be written is none.
            guard settings.profile != .production else { throw error }
            Logger.current.notice(
                "older generations are not kept from coming back", metadata: ["error": "\(error)"])
        }
    }

    /// Whether new machines are made from this very generation.
    func isInUse(_ image: GoldenImage) -> Bool {
        images[image.manifest.definition.name] === image
    }

    /// Looks whether another generation of a loaded image has become current, and uses it from now
    /// on when a machine could be restored from it.
    ///
    /// Cheap when nothing has changed: one `stat` an image. What cannot be used is named once, and
    /// the generation before stays in use.
    package func takeUpImages() async {
        for (name, old) in images {
            let current = store.currentLink(of: name, for: probe.profile.hypervisor)
            guard let identity = try? GenerationIdentity(of: current), identity != old.identity,
                refused[name]?.mayBeTried(identity) != false
            else { continue }
            var metadata: Logger.Metadata = [
                "image": "\(name)", "generation.before": "\(old.manifest.generation)",
            ]
            do throws(MachineError) {
                let image = try await load(store.directory(of: name, for: probe.profile.hypervisor))
                metadata["generation"] = "\(image.manifest.generation)"
                let job = GuestJob(program: .command(["/bin/true"]))
                let (report, _) = try await withMachine(restoring: image) {
                    machine throws(MachineError) in try await machine.session.run(job)
                }
                guard report.ending == .exited(code: 0) else {
                    throw MachineError(.imageRefused, "/bin/true in it: \(report.ending)")
                }
                try raiseFloor(to: image)
                images[name] = image
                refused[name] = nil
                Logger.current.notice("a new generation is in use", metadata: metadata)
                await endStandbys(of: old)
                await fillStandbys(of: image)
                refillLater(image)
            } catch {
                guard error.reason != .cancelled else { return }
                let times = refused[name].map { $0.identity == identity ? $0.times + 1 : 1 } ?? 1
                refused[name] = RefusedGeneration(
                    identity: identity, isFinal: error.reason == .imageRefused, times: times)
                metadata["error"] = "\(error)"
                if !probe.hypervisor.isInPlace {
                    metadata["remedy"] =
                        "\(probe.hypervisor.path) was replaced beside this worker: restart it"
                }
                Logger.current.warning(
                    "a new generation cannot be used; the one before stays in use",
                    metadata: metadata)
            }
        }
    }

    /// Verifies and loads a generation, once however many ask.
    private func load(
        _ directory: String, anyAge: Bool = false
    ) async throws(MachineError) -> GoldenImage {
        let task: Task<Result<GoldenImage, MachineError>, Never>
        if let under = loads[directory] {
            task = under
        } else {
            let trust = try store.trustedKeys()
            let (profile, facts) = (probe.profile, facts)
            task = Task { @LoopActor in
                do throws(MachineError) {
                    return .success(
                        try await offload { () throws(MachineError) in
                            try GoldenImage.load(
                                directory: directory, trust: trust, host: profile, facts: facts)
                        })
                } catch { return .failure(error) }
            }
            loads[directory] = task
        }
        let result = await task.value
        loads[directory] = nil
        let image = try result.get()
        if !anyAge { try store.floors.check(image.manifest) }
        Logger.current.info(
            "image loaded",
            metadata: [
                "image": "\(image.manifest.definition.name)",
                "generation": "\(image.manifest.generation)",
            ])
        return image
    }
}
