#!/usr/bin/env bash
# A Docker engine for the tests, with compose and buildx, and local images under the names that the compose file asks for.
#
#   engine.sh up     an engine that answers already is used as it is; else, as root on Debian, one is made in a folder of its own
#   engine.sh env    what to evaluate so that `docker` speaks to it: eval "$(engine.sh env)"
#   engine.sh down   stops the engine that `up` has made, and no other; its images stay for the next time
#   engine.sh run COMMAND...   all three about a command, which is run also where no engine can be had; one that was there is left running
#
# SUBAK_TEST_DOCKER names the folder. Nothing is installed as a service: programs of a newer Debian are unpacked there, and use
# this machine's containerd and runc. Exit code 3: no engine can be had here; the reason is on standard error.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
home="${HOME:-$(getent passwd "$(id -u)" | cut -d: -f6)}"
work="${SUBAK_TEST_DOCKER:-${XDG_CACHE_HOME:-$home/.cache}/subak-test/docker}"
PATH="$PATH:/usr/sbin:/sbin"
export DEBIAN_FRONTEND=noninteractive

# Engine 20, Debian 12's own, knows neither `start_interval` of a health check nor what compose and buildx of today ask.
readonly SUITE=trixie
readonly START_SECONDS=60 STOP_SECONDS=60

say() { echo "engine: $* (${SECONDS} s)" >&2; }
cannot() { say "NO DOCKER ENGINE: $*"; exit 3; }
answers() { timeout 20 docker version --format '{{.Server.Version}}' 2>/dev/null; }

speak_to_ours() {
    export DOCKER_HOST="unix://$work/docker.sock" DOCKER_CONFIG="$work/config" PATH="$work/programs/usr/bin:$work/programs/usr/sbin:$PATH"
}

# What this machine's own apt uses for Debian, wherever that is.
mirror() { apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' | grep --max-count 1 -E '/debian/?$'; }

install_packages() {
    local missing=() package
    for package in "$@"; do
        [[ $(dpkg-query --show --showformat '${db:Status-Status}' "$package" 2>/dev/null) == installed ]] || missing+=("$package")
    done
    ((${#missing[@]})) || return 0
    say "installing ${missing[*]} ..."
    {
        timeout 300 apt-get install -y -qq --no-install-recommends "${missing[@]}" ||
            { timeout 120 apt-get update -qq && timeout 300 apt-get install -y -qq --no-install-recommends "${missing[@]}"; }
    } >>"$work/apt.log" 2>&1 </dev/null || cannot "apt-get could not install ${missing[*]} (see $work/apt.log)"
}

# unpack FOLDER PACKAGE...: of the newer Debian, into a folder; nothing is installed and no script of theirs runs.
unpack() {
    local folder="$1" apt="$1.apt" package
    shift
    mkdir -p "$apt/lists/partial" "$apt/archives/partial" "$apt/parts" "$folder"
    echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $(mirror) $SUITE main" >"$apt/sources.list"
    local options=(-qq -o "Dir::Etc::SourceList=$apt/sources.list" -o "Dir::Etc::SourceParts=$apt/parts" -o "Dir::Cache=$apt"
        -o "Dir::State::Lists=$apt/lists" -o APT::Sandbox::User=root -o Acquire::Check-Valid-Until=false)
    (
        cd "$apt/archives"
        timeout 300 apt-get "${options[@]}" update && timeout 300 apt-get "${options[@]}" download "$@" &&
            for package in *.deb; do dpkg --extract "$package" "$folder" || exit; done
    ) >>"$work/apt.log" 2>&1 </dev/null
    local failed=$?
    rm -rf "$apt"
    return "$failed"
}

programs() {
    [[ -x $work/programs/usr/sbin/dockerd ]] && return
    say "unpacking Docker's programs ..."
    local fresh="$work/programs.$$"
    unpack "$fresh" docker.io docker-cli docker-compose docker-buildx || cannot "its packages could not be had (see $work/apt.log)"
    mkdir -p "$work/config/cli-plugins"
    cp "$fresh"/usr/libexec/docker/cli-plugins/* "$work/config/cli-plugins/"
    rm -rf "$work/programs" && mv "$fresh" "$work/programs"
}

start() {
    say "starting the engine ..."
    # Its own session, so that the Ctrl-C of who runs the tests is not the engine's; not the lock, which would never be free again.
    setsid dockerd --data-root "$work/data" --exec-root "$work/run" --pidfile "$work/dockerd.pid" --host "$DOCKER_HOST" \
        >"$work/dockerd.log" 2>&1 </dev/null 9>&- &
    local process=$!
    until answers >/dev/null; do
        kill -0 "$process" 2>/dev/null || { tail -n 5 "$work/dockerd.log" >&2; cannot "it ended as soon as it was started"; }
        ((SECONDS < START_SECONDS + begun)) || { tail -n 5 "$work/dockerd.log" >&2; cannot "it did not answer in $START_SECONDS s"; }
        sleep 0.2
    done
}

up() {
    mkdir -p "$work"
    exec 9>"$work/lock"
    : >"$work/apt.log"
    flock 9 # one at a time: two runs on one machine must not unpack into one folder
    if version=$(answers); then
        docker compose version >/dev/null 2>&1 || cannot "an engine answers, but \`docker compose\` is not there: install its plugin"
        : >"$work/env"
        say "engine $version was there"
    else
        [[ $(id -u) == 0 ]] || cannot "none answers, and only root can start one"
        command -v apt-get >/dev/null || cannot "none answers, and this is no Debian to make one of"
        install_packages containerd runc iptables mmdebstrap
        programs
        speak_to_ours
        printf 'export DOCKER_HOST=%q DOCKER_CONFIG=%q PATH=%q:"$PATH"\n' "$DOCKER_HOST" "$DOCKER_CONFIG" \
            "$work/programs/usr/bin" >"$work/env"
        begun=$SECONDS
        answers >/dev/null || start
        say "engine $(answers), compose $(docker compose version --short)"
        ours=yes
    fi
    . "$here/images.sh"
}

down() {
    local process
    process=$(cat "$work/dockerd.pid" 2>/dev/null) || return 0
    tr '\0' ' ' <"/proc/$process/cmdline" 2>/dev/null | grep -qF -- "--data-root $work/data " || return 0
    kill "$process"
    timeout "$STOP_SECONDS" tail --pid="$process" -f /dev/null || { say "it does not stop"; return 1; }
    say "stopped"
}

run() {
    local was_there='' code=0
    (speak_to_ours; answers >/dev/null) && was_there=yes
    "$here/engine.sh" up || code=$?
    if ((code == 0)); then . "$work/env"; elif ((code != 3)); then exit "$code"; fi
    code=0
    "$@" || code=$?
    [[ -n $was_there ]] || "$here/engine.sh" down
    exit "$code"
}

case "${1:-}" in
    up) up ;;
    run) shift; run "$@" ;;
    down) down ;;
    env) cat "$work/env" 2>/dev/null || true ;;
    *) sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "$0" >&2; exit 2 ;;
esac
