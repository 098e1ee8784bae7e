// A golden image of an image that a team has already: made here by umoci in two layers, one of which
// takes a file of the other away, with a user, an environment and an entry point.

import Events
import Foundation
import Glibc
import Processes
import Testing

@testable import Machines

extension RealMachineTests {
    @Suite(
        "An image made of an OCI image",
        .enabled(if: geteuid() == 0, "image builds need root"), .serialized)
    struct OCIImageTests {
        /// A layout with one image, `team`, of busybox and a few files.
        private static let make = """
            set -e
            umoci init --layout layout; umoci new --image layout:team
            umoci unpack --image layout:team one
            cd one/rootfs; mkdir -p bin etc tmp proc sys dev run var/lib srv
            cp "$(command -v busybox)" bin/busybox
            for name in sh cat hostname head od mktemp id env ls true grep sort; do
                ln -s busybox bin/$name; done
            printf 'root:x:0:0::/:/bin/sh\napp:x:1234:1235::/srv:/bin/sh\n' > etc/passwd
            echo 'app:x:1235:' > etc/group
            echo 'of the first layer' > etc/gone; mkdir etc/old; echo old > etc/old/file
            printf '#!/bin/sh\necho "entry in $(pwd) as $(id -u):$(id -g) with $*"\n' > bin/entry
            chmod 755 bin/entry
            cd ../..; umoci repack --image layout:team one
            umoci unpack --image layout:team two
            rm two/rootfs/etc/gone; rm -r two/rootfs/etc/old; mkdir two/rootfs/etc/old
            echo new > two/rootfs/etc/old/new
            umoci repack --image layout:team two
            umoci config --image layout:team --config.user app --config.env COLOUR=blue \\
                --config.env PATH=/bin --config.entrypoint /bin/entry --config.cmd 'the default' \\
                --config.workingdir /srv
            skopeo --insecure-policy copy --quiet oci:layout:team oci-archive:team.tar
            """

        @LoopActor
        private func run(_ script: String, in directory: String) async throws {
            let result = try await runTool(["sh", "-c", "cd '\(directory)'\n\(script)"])
            try #require(result.status == 0, "\(result.output)")
        }

        @Test func `has its user, environment and entry point, and nothing that a layer removed`()
            async throws
        {
            let directory = try TemporaryDirectory()
            try await run(Self.make, in: directory.path)
            var settings = TestImage.settings
            settings.stateDirectory = directory.path + "/state"
            settings.agentBinary = TestImage.agent
            settings.standbys = 0
            try makeDirectory(settings.stateDirectory)
            let bases = TestImage.stateDirectory + "/bases"
            try FileManager.default.createSymbolicLink(
                atPath: settings.stateDirectory + "/bases", withDestinationPath: bases)
            let definition = ImageDefinition(
                name: "team", packages: [], memory: .mebibytes(192),
                oci: directory.path + "/layout:team")
            let lines = BuildLines()
            let builder = ImageBuilder(settings: settings, definition: definition) {
                lines.add($0)
                print("  \($0)")
            }
            let before = Set(children(of: bases))
            let built = try await builder.build(force: false, refresh: false)
            defer {
                // Every run makes another one; only the kernel's base is used again.
                let link =
                    ImageStore(stateDirectory: settings.stateDirectory)
                    .link(of: (built.first?.directory ?? "") + "/base") ?? "none"
                let id = (link as NSString).lastPathComponent
                for name in children(of: bases)
                where !before.contains(name) && name.hasPrefix(id.prefix(16)) {
                    try? FileManager.default.removeItem(atPath: "\(bases)/\(name)")
                }
            }
            #expect(lines.all.contains { $0.hasPrefix("no two are alike") }, "\(lines.all)")
            let script = """
                id -u; id -g; env | grep -E '^(COLOUR|PATH|HOME)=' | sort
                ls /etc/old; ls /etc/gone 2> /dev/null || echo gone
                entry=/usr/local/bin/mayfly-entrypoint
                $entry a 'b c'; $entry; echo x > /work/file
                """
            let job = GuestJob(
                program: .command(["/bin/sh", "-c", script]), outputs: ["file"],
                timeout: .seconds(60))
            try await MachineHost.with(settings) { host in
                let report = try await host.run(job, image: "team").report
                #expect(report.ending == .exited(code: 0), "\(TestImage.text(report.stderr))")
                #expect(
                    TestImage.text(report.stdout) == """
                        1234
                        1235
                        COLOUR=blue
                        HOME=/work
                        PATH=/bin
                        new
                        gone
                        entry in /srv as 1234:1235 with a b c
                        entry in /srv as 1234:1235 with the default

                        """)
                #expect(report.files.map(\.name) == ["file"])
            }
            // An archive of it is the same image.
            func digest(_ place: String) async throws -> String {
                try await OCIImage(place: place, key: "image.team.oci", progress: { _ in }).digest()
            }
            let archive = try await digest(directory.path + "/team.tar")
            let layout = try await digest(directory.path + "/layout:team")
            #expect(archive == layout)
        }

        @Test func `is not made of what is none, and the build says of which file`() async throws {
            let directory = try TemporaryDirectory()
            let file = directory.path + "/notes.txt"
            try writeFile(file, Array("no image".utf8), mode: 0o644)
            for (place, words) in [
                (file, "is neither an OCI layout nor an archive"), (file + ".no", "cannot read"),
            ] {
                await #expect {
                    _ = try await OCIImage(
                        place: place, key: "image.x.oci", progress: { _ in }
                    ).digest()
                } throws: {
                    "\($0)".hasPrefix("image.x.oci: ") && "\($0)".contains(words)
                }
            }
        }
    }
}
