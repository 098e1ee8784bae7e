// The Python package that a browse job runs inside the guest, as the files of its image.

package enum BrowseTools {
    /// Absolute paths in the guest and what stands there; readable by all, owned by root.
    package static let files: [(path: String, bytes: [UInt8])] =
        [
            file("__init__.py", PackageResources.__init___py),
            file("actions.py", PackageResources.actions_py),
            file("addresses.py", PackageResources.addresses_py),
            file("browser.py", PackageResources.browser_py),
            file("canary.py", PackageResources.canary_py),
            file("content.py", PackageResources.content_py),
            file("events.py", PackageResources.events_py),
            file("job.py", PackageResources.job_py),
            file("limits.py", PackageResources.limits_py),
            file("network.py", PackageResources.network_py),
            file("page.js", PackageResources.page_js),
            file("parked.py", PackageResources.parked_py),
            file("pictures.py", PackageResources.pictures_py),
            file("script.py", PackageResources.script_py),
            file("server.py", PackageResources.server_py),
            file("session.py", PackageResources.session_py),
            file("targets.py", PackageResources.targets_py),
            file("trust.py", PackageResources.trust_py),
            file("waits.py", PackageResources.waits_py),
            file("warm.py", PackageResources.warm_py),
        ] + [(path: searchPath, bytes: Array("\(directory)\n".utf8))]

    private static let directory = "/usr/local/lib/mayfly"
    /// Puts the directory on the path of every Python in the image.
    private static let searchPath = "/usr/lib/python3/dist-packages/mayfly.pth"

    private static func file(_ name: String, _ bytes: [UInt8]) -> (path: String, bytes: [UInt8]) {
        ("\(directory)/mayfly_browse/\(name)", bytes)
    }
}
