#!/usr/bin/env bash
# Gets what the tests run on, when this machine has none and this user may: unixODBC and MariaDB from the distribution; a real
# MySQL 9, and Prometheus, as unpacked Debian packages in a cache folder, started from there by tests/stack/servers.py and prometheus.py.
# Never fails: what cannot be had is said, and the tests decide (skipped; under CI=true, MariaDB or Prometheus missing fails).
#
#   engines.sh            everything
#   engines.sh unixodbc   what also the tests without a server need: without it Python's pyodbc cannot be imported
set -uo pipefail
here=$(dirname "${BASH_SOURCE[0]}")
home="${HOME:-$(getent passwd "$(id -u)" | cut -d: -f6)}"
cache="${XDG_CACHE_HOME:-$home/.cache}/subak-test"
PATH="$PATH:/usr/sbin:/usr/local/sbin"
export DEBIAN_FRONTEND=noninteractive

say() { echo "engines: $*"; }

may_install() { [[ $(id -u) == 0 ]] && command -v apt-get >/dev/null; }

install_packages() {
    may_install || return 1
    local log="$cache/apt.log"
    mkdir -p "$cache"
    {
        timeout 300 apt-get install -y -qq --no-install-recommends "$@" ||
            { timeout 120 apt-get update -qq && timeout 300 apt-get install -y -qq --no-install-recommends "$@"; }
    } >"$log" 2>&1 </dev/null || { say "apt-get could not install $* (see $log)"; return 1; }
}

unixodbc() {
    "$here/../.venv/bin/python" -c 'import pyodbc' 2>/dev/null && return
    say "installing unixODBC from the distribution ..."
    install_packages unixodbc || say "NO UNIXODBC: install it (Debian: unixodbc); no test can run"
}

mariadb() {
    if ! { command -v mariadbd && command -v mariadb-install-db; } >/dev/null; then
        say "installing MariaDB from the distribution ..."
        if ! install_packages mariadb-server-core mariadb-client-core; then
            say "NO MARIADB: install mariadb-server-core and mariadb-client-core as root; its tests cannot run"
            return
        fi
    fi
    say "MariaDB: $(mariadbd --version)"
}

# Debian's unstable suite carries mysql-server-core 9; nothing is installed, its packages are only unpacked into a folder.
unpack_mysql() {
    command -v mmdebstrap >/dev/null || install_packages mmdebstrap || return 1
    say "unpacking MySQL 9 into $cache/mysql (about half a minute) ..."
    local fresh="$cache/mysql.$$"
    rm -rf "$fresh"
    if timeout 300 mmdebstrap --quiet --mode=root --variant=extract --include=mysql-server-core,mysql-client-core \
        --aptopt='APT::Install-Recommends "false"' --aptopt='Acquire::Check-Valid-Until "false"' \
        sid "$fresh" >"$cache/mysql.log" 2>&1 </dev/null && [[ -x $fresh/usr/sbin/mysqld ]]; then
        rm -rf "$cache/mysql" && mv "$fresh" "$cache/mysql"
    else
        rm -rf "$fresh"
        say "the packages could not be had (see $cache/mysql.log)"
        return 1
    fi
}

mysql() {
    local root
    for root in "${SUBAK_TEST_MYSQL_ROOT:-/nowhere}" "$cache/mysql"; do
        [[ -x $root/usr/sbin/mysqld ]] && { say "MySQL: $root"; return; }
    done
    if command -v mysqld >/dev/null && ! mysqld --version 2>/dev/null | grep -q MariaDB; then
        say "MySQL: $(mysqld --version)"
        return
    fi
    if may_install && unpack_mysql; then
        say "MySQL: $cache/mysql"
    else
        say "NO MYSQL: its tests will be skipped; set SUBAK_TEST_MYSQL_ROOT to a folder that holds usr/sbin/mysqld"
    fi
}

# Unpacked, since to install the package is to start its daemon; it needs nothing but the C library.
unpack_prometheus() {
    may_install || return 1
    local fresh="$cache/prometheus.$$"
    rm -rf "$fresh" && mkdir -p "$fresh"
    if (
        cd "$fresh" || exit 1
        timeout 120 apt-get download -qq prometheus || { timeout 120 apt-get update -qq && timeout 300 apt-get download -qq prometheus; }
    ) >"$cache/prometheus.log" 2>&1 </dev/null && dpkg-deb --extract "$fresh"/prometheus_*.deb "$fresh" &&
        "$fresh/usr/bin/promtool" --version >/dev/null 2>&1; then
        rm -f "$fresh"/*.deb
        rm -rf "$cache/prometheus" && mv "$fresh" "$cache/prometheus"
    else
        rm -rf "$fresh"
        return 1
    fi
}

prometheus() {
    if { command -v prometheus && command -v promtool; } >/dev/null; then
        say "Prometheus: $(command -v prometheus)"
    elif [[ -x $cache/prometheus/usr/bin/prometheus ]] || unpack_prometheus; then
        say "Prometheus: $cache/prometheus"
    else
        say "NO PROMETHEUS: put prometheus and promtool on the PATH; the tests of alerts and dashboards cannot run (see $cache/prometheus.log)"
    fi
}

mkdir -p "$cache"
unixodbc
[[ ${1:-} == unixodbc ]] && exit 0
mariadb
# One at a time: two runs on one machine must not unpack into one folder.
if command -v flock >/dev/null; then exec 9>"$cache/lock"; flock -w 600 9; fi
mysql
prometheus
exit 0
