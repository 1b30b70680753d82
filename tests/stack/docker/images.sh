# Read by engine.sh: images under the official names. What is there stays; what can be pulled is pulled; else, in an engine that engine.sh
# has made (`ours`), a stand-in is made of Debian's packages, which does what the compose file needs of the official one. Never push or
# export a stand-in: it trusts the certificate authorities that this machine was told to trust.

readonly SLIM=(--quiet --mode=root --aptopt='APT::Install-Recommends "false"' --aptopt='Acquire::Check-Valid-Until "false"'
    --dpkgopt=force-unsafe-io --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/man/*'
    --dpkgopt='path-exclude=/usr/share/locale/*')
readonly PULL_SECONDS=600

# tree FILE SUITE OPTION...: a small Debian as a tar file.
tree() {
    local file="$1" suite="$2"
    shift 2
    mmdebstrap "${SLIM[@]}" --variant=minbase "$@" "$suite" "$file" "$(mirror)"
}

import() { # FILE NAME CHANGE...
    local file="$1" name="$2" changes=() change
    shift 2
    for change in "$@"; do changes+=(--change "$change"); done
    docker import --message "stand-in for $name, of Debian's packages" "${changes[@]}" "$file" "$name" >/dev/null
}

stand_in_for_python() { # NAME SCRATCH
    local ours=()
    if compgen -G '/usr/local/share/ca-certificates/*.crt' >/dev/null; then
        ours=(--customize-hook='copy-in /usr/local/share/ca-certificates /usr/local/share'
            --customize-hook='chroot "$1" update-ca-certificates >/dev/null')
    fi
    tree "$2/tree.tar" trixie --include=ca-certificates,python3,python3-pip,python3-venv "${ours[@]}" \
        --customize-hook='rm "$1"/usr/lib/python3*/EXTERNALLY-MANAGED' \
        --customize-hook='ln -s /usr/bin/python3 "$1/usr/local/bin/python" && ln -s /usr/bin/python3 "$1/usr/local/bin/python3"'
    import "$2/tree.tar" "$1" 'ENV PATH=/usr/local/bin:/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin' 'ENV LANG=C.UTF-8' \
        'CMD ["python3"]'
}

# Both families of servers: user, folders and entrypoint as their official images have them.
database() { # NAME SCRATCH SUITE PACKAGES SERVER HOOK...
    local name="$1" scratch="$2" suite="$3" packages="$4" server="$5" hooks=() hook
    for hook in "${@:6}"; do hooks+=("--customize-hook=$hook"); done
    mkdir -p "$scratch/bin"
    cp "$here/database-entrypoint.sh" "$scratch/bin/docker-entrypoint.sh"
    cp "$here/database-health.sh" "$scratch/bin/healthcheck.sh"
    cat >"$scratch/subak-stand-in.cnf" <<-END
	[mysqld]
	datadir = /var/lib/mysql
	socket = /run/mysqld/mysqld.sock
	pid-file = /run/mysqld/mysqld.pid
	skip-name-resolve
	host-cache-size = 0
	[client]
	socket = /run/mysqld/mysqld.sock
	END
    [[ $server == mysqld ]] && echo '!includedir /etc/mysql/conf.d/' >>"$scratch/subak-stand-in.cnf"
    tree "$scratch/tree.tar" "$suite" --include="$packages" \
        --customize-hook='chroot "$1" groupadd --system --gid 999 mysql' \
        --customize-hook='chroot "$1" useradd --system --uid 999 --gid 999 --home-dir /var/lib/mysql --shell /usr/sbin/nologin mysql' \
        --customize-hook='for f in /var/lib/mysql /var/lib/mysql-files /run/mysqld; do install -d -o 999 -g 999 "$1$f"; done' \
        --customize-hook='mkdir -p "$1/docker-entrypoint-initdb.d" "$1/etc/mysql/conf.d"' \
        --customize-hook="copy-in $scratch/bin/docker-entrypoint.sh $scratch/bin/healthcheck.sh /usr/local/bin" \
        --customize-hook="copy-in $scratch/subak-stand-in.cnf /etc/mysql/conf.d" \
        "${hooks[@]}"
    import "$scratch/tree.tar" "$name" 'ENV PATH=/usr/local/bin:/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin' \
        'ENTRYPOINT ["docker-entrypoint.sh"]' "CMD [\"$server\"]" 'EXPOSE 3306' 'VOLUME /var/lib/mysql'
}

stand_in_for_mysql() {
    # The official image reads /etc/my.cnf, which includes /etc/mysql/conf.d.
    database "$1" "$2" sid mysql-server-core,mysql-client-core mysqld \
        'mv "$1/etc/mysql/conf.d/subak-stand-in.cnf" "$1/etc/my.cnf"; rm -rf "$1/usr/lib/mysql/plugin/debug"'
}

stand_in_for_mariadb() {
    # Its official image has no program whose name begins with mysql. Two of its clients come without the package that holds them,
    # which would bring Perl along.
    unpack "$2/client" mariadb-client
    database "$1" "$2" trixie mariadb-server-core,mariadb-client-core mariadbd \
        "copy-in $2/client/usr/bin/mariadb-admin $2/client/usr/bin/mariadb-dump /usr/local/bin" \
        'printf "[client-server]\n!includedir /etc/mysql/conf.d/\n" >"$1/etc/mysql/my.cnf"; rm -f "$1"/usr/bin/mysql* "$1"/usr/sbin/mysqld'
}

stand_in_for_prometheus() {
    # Only unpacked: its package would bring a web server's worth of others along. busybox is the official image's shell, too.
    local root="$2/root"
    mkdir -p "$root"/usr/{bin,lib,lib64,sbin} "$root"/{etc/prometheus,prometheus,tmp}
    for folder in bin lib lib64 sbin; do ln -s "usr/$folder" "$root/$folder"; done
    unpack "$root" prometheus promtool libc6 busybox-static
    rm -rf "$root"/usr/share/{doc,man,locale,gconv}
    for program in sh wget cat; do ln -s busybox "$root/usr/bin/$program"; done
    printf 'root:x:0:0::/:/bin/sh\nnobody:x:65534:65534::/:/bin/sh\n' >"$root/etc/passwd"
    echo 'hosts: files dns' >"$root/etc/nsswitch.conf"
    chown 65534:65534 "$root/prometheus"
    chmod 1777 "$root/tmp"
    tar --create --file "$2/tree.tar" --directory "$root" .
    import "$2/tree.tar" "$1" 'ENV PATH=/usr/local/bin:/usr/bin:/bin' 'USER nobody' 'WORKDIR /prometheus' 'EXPOSE 9090' \
        'VOLUME /prometheus' 'ENTRYPOINT ["/bin/prometheus"]' \
        'CMD ["--config.file=/etc/prometheus/prometheus.yml", "--storage.tsdb.path=/prometheus"]'
}

there() { docker image inspect "$1" >/dev/null 2>&1; }

# Whether a registry is reached at all is found out once: the first pull that fails for it says so for all.
pull() {
    [[ -e $work/no-registry ]] && return 1
    timeout "$PULL_SECONDS" docker pull --quiet "$1" >"$work/pull.log" 2>&1 && return
    touch "$work/no-registry"
    say "$1 cannot be pulled: $(tail -n 1 "$work/pull.log" | cut -c 1-160)"
    return 1
}

image() { # NAME MAKER
    there "$1" && return
    pull "$1" && { say "pulled $1"; return; }
    # Whatever else runs in somebody's own engine would get it under that name, too.
    [[ -n ${ours:-} ]] || { say "no $1: it cannot be pulled, and no stand-in is put into an engine that was there already"; return 1; }
    local scratch
    scratch=$(mktemp -d "${TMPDIR:-/tmp}/subak-image.XXXXXX")
    # Not as the condition itself: there a command that fails would not end it.
    (set -e; export TMPDIR="$scratch"; "$2" "$1" "$scratch") >"$work/image-$2.log" 2>&1 </dev/null 9>&- &
    if wait $!; then
        say "made a stand-in for $1"
    else
        say "no $1: neither pulled nor made (see $work/image-$2.log)"
    fi
    rm -rf "$scratch"
    there "$1"
}

official() { sed -n "s/.*\${$1_IMAGE:-\([^}]*\)}.*/\1/p" "$here/../../../deploy/services.yml" | head -n 1; }

rm -f "$work/no-registry"
needed=("$(official PYTHON)=python" "$(official MYSQL)=mysql" "$(official MARIADB)=mariadb" "$(official PROMETHEUS)=prometheus")
wanted=()
for one in "${needed[@]}"; do
    there "${one%=*}" || wanted+=("$one")
done
if ((${#wanted[@]})); then
    [[ $(id -u) != 0 ]] || command -v mmdebstrap >/dev/null || install_packages mmdebstrap
    say "getting images: ${wanted[*]%=*} ..."
    pull "${wanted[0]%=*}" || true
    pids=()
    for one in "${wanted[@]}"; do
        image "${one%=*}" "stand_in_for_${one#*=}" &
        pids+=($!)
    done
    for process in "${pids[@]}"; do wait "$process" || lacking=1; done
    [[ -z ${lacking:-} ]] || { say "some images could not be had"; exit 1; }
fi
# Of these there is no stand-in: what they would show is not shown without them, and the tests say so. SQL Server's licence must be accepted.
optional=("$(official GRAFANA)")
[[ ${ACCEPT_EULA:-} != Y ]] || optional+=("$(official MSSQL)")
for one in "${optional[@]}"; do
    there "$one" || { pull "$one" && say "pulled $one"; } || true
done
say "images: ${needed[*]%=*}"
