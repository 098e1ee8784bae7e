# What scripts/demo and scripts/test have in common: what must be installed, which Swift, and how the
# programs are built. Sourced by them; it changes nothing when everything is there.
# shellcheck shell=bash

say() { printf '==> %s (after %s s)\n' "$*" "$SECONDS" >&2; }
die() { printf '%s: %s\n' "${0##*/}" "$*" >&2; exit 1; }

repository=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

# Runs a command as root: directly, or through sudo with the settings that count.
as_root() {
    if [ "$(id -u)" = 0 ]; then
        "$@"
    else
        command -v sudo >/dev/null || die "run this as root, or install sudo"
        sudo -- env PATH="$PATH" ${MAYFLY_STATE_DIRECTORY:+"MAYFLY_STATE_DIRECTORY=$MAYFLY_STATE_DIRECTORY"} \
            ${MAYFLY_CONFIG:+"MAYFLY_CONFIG=$MAYFLY_CONFIG"} "$@"
    fi
}

check_host() {
    [ "$(uname -s)" = Linux ] || die "this needs Linux"
    [ "$(uname -m)" = x86_64 ] || die "this version needs an x86_64 host, and this is $(uname -m)"
    command -v apt-get >/dev/null || die "this script installs Debian packages; on another system install by hand: ${packages[*]}"
}

packages=(
    qemu-system-x86 mmdebstrap e2fsprogs kmod           # machines and their images
    xz-utils zstd lz4                                   # unpack kernels and their modules
    skopeo umoci busybox-static                         # images out of OCI images, and one to test with
    postgresql postgresql-client libpq-dev              # the queue
    libc-ares-dev                                       # the network of jobs: names
    spin                                                # checks the model of the queue
    libssl-dev libseccomp-dev pkg-config gcc libc6-dev g++ git ca-certificates binutils zlib1g-dev
)

install_packages() {
    local missing=() package
    for package in "${packages[@]}"; do
        [ "$(dpkg-query -W -f='${db:Status-Status}' "$package" 2>/dev/null || true)" = installed ] ||
            missing+=("$package")
    done
    if [ ${#missing[@]} = 0 ]; then
        say "every package is installed"
        return
    fi
    say "installing ${missing[*]}"
    if [[ " ${missing[*]} " == *" postgresql "* ]] && [ ! -e /etc/postgresql-common/createcluster.conf ]; then
        # The demo brings its own cluster: the package shall neither make nor start one.
        as_root mkdir -p /etc/postgresql-common
        echo 'create_main_cluster = false' | as_root tee /etc/postgresql-common/createcluster.conf >/dev/null
    fi
    as_root apt-get update -qq
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
        -o Dpkg::Options::=--force-confold -o Dpkg::Use-Pty=0 "${missing[@]}" >&2
}

# Finds Swift where installers put it (sudo often hides PATH), and refuses one that is too old.
find_swift() {
    local home place version
    home=$(getent passwd "${SUDO_USER:-$(id -un)}" | cut -d: -f6)
    if ! command -v swift >/dev/null; then
        for place in "$home/.local/share/swiftly/bin" /opt/swift/usr/bin /usr/local/swift/usr/bin \
            /usr/share/swift/usr/bin /usr/libexec/swift/bin /opt/*swift*/usr/bin; do
            if [ -x "$place/swift" ]; then
                PATH="$place:$PATH"
                break
            fi
        done
    fi
    command -v swift >/dev/null ||
        die "Swift is not installed; this needs Swift 6.2 or newer: https://www.swift.org/install/linux/"
    version=$(swift --version 2>/dev/null | sed -n 's/.*Swift version \([0-9]*\.[0-9]*\).*/\1/p' | head -n 1)
    [ "$(printf '6.2\n%s\n' "$version" | sort -V | head -n 1)" = 6.2 ] ||
        die "Swift $version is too old; this needs Swift 6.2 or newer: https://www.swift.org/install/linux/"
    say "Swift $version in $(command -v swift)"
}

# The release programs: mayfly, its jail and launcher, and the guest agent that goes into images.
build_programs() {
    say "building mayfly, its jail, its launcher and its guest agent (minutes the first time)"
    (cd "$repository" && swift build -c release --product mayfly >&2 &&
        swift build -c release --product mayfly-jail >&2 &&
        swift build -c release --product mayfly-launcher >&2 &&
        swift build -c release --product mayfly-agent >&2)
    programs=$(cd "$repository" && swift build -c release --show-bin-path)
}
