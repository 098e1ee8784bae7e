# What the tests of examples/ need beside prepare.sh: psycopg for Python, pg for Node. Sourced by
# scripts/test after prepare.sh. What cannot be had is said, and its tests are skipped by name.
# shellcheck shell=bash

install_for_examples() {
    local module=$repository/.build/node-pg
    packages=(python3 python3-psycopg)
    if ! command -v node >/dev/null; then packages+=(nodejs); fi
    install_packages
    if NODE_PATH=/usr/share/nodejs:$module/usr/share/nodejs node -e 'require("pg")' 2>/dev/null; then return; fi
    if apt-get install -s -qq --no-install-recommends node-pg >/dev/null 2>&1; then
        packages=(node-pg)
        install_packages
        return
    fi
    # Debian's node-pg insists on Debian's nodejs. Beside another one its files work just as well.
    say "unpacking node-pg beside $(command -v node), which is not Debian's"
    mkdir -p "$module"
    (
        cd "$module" &&
            apt-get download -qq node-pg node-split2 node-readable-stream node-xtend node-async >&2 &&
            for package in ./*.deb; do dpkg -x "$package" . || exit 1; done &&
            rm -f ./*.deb
    ) || say "node-pg is not to be had here: the Node example will not be run"
}
