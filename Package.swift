// swift-tools-version: 6.2
import PackageDescription

/// One strictness for every target: Swift 6, no hidden unsafety, no warning left standing.
let strict: [SwiftSetting] = [
    .swiftLanguageMode(.v6),
    .strictMemorySafety(),
    .treatAllWarnings(as: .error),
    .enableUpcomingFeature("ExistentialAny"),
    .enableUpcomingFeature("MemberImportVisibility"),
    .enableUpcomingFeature("NonisolatedNonsendingByDefault"),
]

let package = Package(
    name: "mayfly",
    products: [
        .executable(name: "mayfly", targets: ["Mayfly"]),
        .executable(name: "mayfly-agent", targets: ["GuestAgent"]),
        .executable(name: "mayfly-jail", targets: ["Jail"]),
        .executable(name: "mayfly-launcher", targets: ["Launcher"]),
    ],
    dependencies: [
        // Spares us a command-line parser, its help texts and its completion scripts.
        .package(url: "https://github.com/apple/swift-argument-parser", from: "1.8.2"),
        // Spares us a logging front end; structured metadata that a later exporter can read.
        .package(url: "https://github.com/apple/swift-log", from: "1.16.2"),
    ],
    targets: [
        // The PostgreSQL wire protocol, TLS, service files and every PG* variable.
        .systemLibrary(name: "CLibPQ", pkgConfig: "libpq", providers: [.apt(["libpq-dev"])]),
        // SHA-256 with the processor's own instructions, Ed25519, P-256 and AES-GCM (OpenSSL's
        // libcrypto).
        .systemLibrary(name: "CCrypto", pkgConfig: "libcrypto", providers: [.apt(["libssl-dev"])]),
        // Assembling filters of system calls for every processor and kernel.
        .systemLibrary(
            name: "CSeccomp", pkgConfig: "libseccomp", providers: [.apt(["libseccomp-dev"])]),
        // DNS without blocking: queries, retries over TCP, servers of resolv.conf, hostile answers
        // (c-ares).
        .systemLibrary(name: "CAres", pkgConfig: "libcares", providers: [.apt(["libc-ares-dev"])]),
        // TLS: handshakes, certificates and their verification (OpenSSL's libssl).
        .target(
            name: "CTLS", linkerSettings: [.linkedLibrary("ssl"), .linkedLibrary("crypto")]),
        // The system calls and structures that Swift's Glibc module does not show.
        .target(name: "CLinux"),
        // What only the guest's PID 1 needs, such as /proc before Swift's own constructors run.
        .target(name: "CGuest"),

        .target(name: "Events", dependencies: ["CLinux"], swiftSettings: strict),
        .target(name: "Processes", dependencies: ["CLinux", "Events"], swiftSettings: strict),
        .target(name: "Postgres", dependencies: ["CLibPQ", "Events"], swiftSettings: strict),
        .target(
            name: "Jobs",
            dependencies: ["Postgres", "Events", .product(name: "Logging", package: "swift-log")],
            resources: [.embedInCode("sql")],
            swiftSettings: strict
        ),
        .target(name: "StrictJSON", swiftSettings: strict),
        .target(
            name: "Secrets", dependencies: ["CCrypto", "Processes", "StrictJSON"],
            swiftSettings: strict),
        // What a document job runs inside the guest, in Python.
        .target(
            name: "DocumentTools", resources: [.embedInCode("mayfly_document")],
            swiftSettings: strict),
        // What a browse job runs inside the guest, in Python.
        .target(
            name: "BrowseTools", resources: [.embedInCode("mayfly_browse")],
            swiftSettings: strict),
        .target(name: "Wire", exclude: ["README.md"], swiftSettings: strict),
        .target(
            name: "Machines",
            dependencies: [
                "Wire", "StrictJSON", "CLinux", "CCrypto", "Events", "Launch", "Processes",
                .product(name: "Logging", package: "swift-log"),
            ],
            swiftSettings: strict
        ),
        .target(
            name: "Egress", dependencies: ["CAres", "CLinux", "CTLS", "Events", "Processes"],
            exclude: ["README.md"], swiftSettings: strict),
        .executableTarget(
            name: "GuestAgent",
            dependencies: ["Wire", "CLinux", "CGuest"],
            resources: [.embedInCode("Interpreters")],
            swiftSettings: strict,
            linkerSettings: [.unsafeFlags(["-static-executable"])]
        ),
        // Static: it starts in a millisecond, and nothing is loaded while it is still root.
        .executableTarget(
            name: "Jail",
            dependencies: ["CLinux", "CSeccomp"],
            swiftSettings: strict,
            linkerSettings: [.unsafeFlags(["-static-executable"])]
        ),
        // What a worker and its launcher say to each other.
        .target(name: "Launch", swiftSettings: strict),
        // Static, as the jail is: it is root for as long as it runs.
        .executableTarget(
            name: "Launcher",
            dependencies: ["CLinux", "Launch"],
            swiftSettings: strict,
            linkerSettings: [.unsafeFlags(["-static-executable"])]
        ),
        .executableTarget(
            name: "Mayfly",
            dependencies: [
                "BrowseTools", "DocumentTools", "Egress", "Events", "Jobs", "Machines", "Processes",
                "Postgres", "Secrets", "StrictJSON", "Wire",
                .product(name: "ArgumentParser", package: "swift-argument-parser"),
                .product(name: "Logging", package: "swift-log"),
            ],
            swiftSettings: strict
        ),

        .target(name: "TestSupport", path: "Tests/TestSupport", swiftSettings: strict),
        // Reaches into another process's descriptors, as a fault would.
        .target(name: "CTestSupport", path: "Tests/CTestSupport"),
        .testTarget(
            name: "EventsTests", dependencies: ["Events"], swiftSettings: strict),
        .testTarget(
            name: "WireTests", dependencies: ["Wire"], exclude: ["Golden"], swiftSettings: strict),
        .testTarget(
            name: "JobsTests", dependencies: ["Jobs", "Postgres", "Events", "TestSupport"],
            swiftSettings: strict),
        .testTarget(
            name: "EgressTests", dependencies: ["Egress", "Events", "Processes"],
            swiftSettings: strict),
        .testTarget(
            name: "MachinesTests",
            dependencies: [
                "BrowseTools", "Machines", "Processes", "Events", "CLinux", "CTestSupport",
                "Launch", "StrictJSON", "Wire",
            ],
            exclude: ["Jail/Calls"], swiftSettings: strict),
        .testTarget(
            name: "MayflyTests",
            dependencies: [
                "Mayfly", "BrowseTools", "DocumentTools", "Egress", "Events", "Jobs", "Machines",
                "Processes", "Postgres", "Secrets", "StrictJSON", "TestSupport", "CTestSupport",
                "CLinux",
            ],
            swiftSettings: strict),
        // What is fuzzed, and the inputs that were found: a test of every run, see scripts/fuzz.
        .testTarget(
            name: "FuzzTests",
            dependencies: ["Egress", "Launch", "Mayfly", "StrictJSON", "TestSupport", "Wire"],
            exclude: ["Corpus", "LibFuzzer.swift"], swiftSettings: strict),
        .testTarget(
            name: "SecretsTests", dependencies: ["Secrets", "StrictJSON", "TestSupport"],
            swiftSettings: strict),
        .testTarget(name: "TidyTests", swiftSettings: strict),
    ]
)

switch Context.environment["MAYFLY_BUILD"] {
case "sanitized":
    // scripts/test --sanitize: the suites that need no machine. No sanitizer can be linked into the
    // static guest agent.
    let kept = [
        "CLibPQ", "CLinux", "CAres", "CTLS", "Events", "Processes", "Postgres", "Jobs", "Egress",
        "Wire", "TestSupport", "EventsTests", "JobsTests", "WireTests", "EgressTests",
    ]
    package.products = []
    package.targets.removeAll { !kept.contains($0.name) }
case "fuzzed":
    // scripts/fuzz: one program around the harnesses; the program Mayfly becomes a library.
    package.products = []
    package.targets = package.targets.map { target in
        switch target.name {
        case "Mayfly":
            // libFuzzer has the `main`; the harness looks inside.
            .target(
                name: target.name, dependencies: target.dependencies,
                swiftSettings: (target.swiftSettings ?? []) + [
                    .unsafeFlags(
                        [
                            "-Xfrontend", "-entry-point-function-name", "-Xfrontend", "mayfly_main",
                            "-enable-testing",
                        ])
                ])
        case "Egress":
            // The harness looks inside.
            .target(
                name: target.name, dependencies: target.dependencies,
                swiftSettings: (target.swiftSettings ?? []) + [.unsafeFlags(["-enable-testing"])])
        case "FuzzTests":
            .executableTarget(
                name: "Fuzz", dependencies: target.dependencies, path: "Tests/FuzzTests",
                exclude: ["Corpus", "CorpusTests.swift", "EgressSeedTests.swift"],
                swiftSettings: target.swiftSettings)
        default: target
        }
    }
    package.targets.removeAll { $0.name == "MayflyTests" }
default: break
}
