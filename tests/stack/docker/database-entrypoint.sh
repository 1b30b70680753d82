#!/bin/bash
# The entrypoint of the stand-ins for the official mysql and mariadb images: as there, a new data folder is initialised by the
# variables MYSQL_* (or MARIADB_*) ROOT_PASSWORD, DATABASE, USER, PASSWORD, ROOT_HOST, each also as *_FILE, then by what is in
# /docker-entrypoint-initdb.d; root becomes the user `mysql`; then the server takes this process's place.
set -euo pipefail
[[ ${1:-} != -* ]] || set -- "$(command -v mariadbd mysqld | head -n 1)" "$@"
case "${1##*/}" in
    mysqld) maria='' ours=MYSQL client=mysql quiet=(--mysqlx=OFF) ;;
    mariadbd) maria=yes ours=MARIADB client=mariadb quiet=() ;;
    *) exec "$@" ;;
esac
readonly data=/var/lib/mysql socket=/run/mysqld/mysqld.sock

say() { echo "entrypoint: $*" >&2; }

# setting NAME: the value of MARIADB_NAME or MYSQL_NAME, or what is in the file that NAME_FILE names; empty when neither is there.
setting() {
    local prefix name file
    for prefix in ${maria:+MARIADB_} MYSQL_; do
        name=$prefix$1 file=$prefix$1_FILE
        if [[ -n ${!file:-} ]]; then cat "${!file}"; return; fi
        if [[ -n ${!name:-} ]]; then printf %s "${!name}"; return; fi
    done
}

if [[ $(id -u) == 0 ]]; then
    # Files may be root's alone to read, so they are read before root is left.
    for name in ROOT_PASSWORD ROOT_HOST DATABASE USER PASSWORD; do
        value=$(setting "$name")
        for prefix in MARIADB MYSQL; do unset "${prefix}_$name" "${prefix}_${name}_FILE"; done
        [[ -z $value ]] || export "${ours}_$name=$value"
    done
    install -d -o mysql -g mysql "$data" /run/mysqld
    find "$data" /run/mysqld ! -user mysql -exec chown mysql:mysql {} +
    exec setpriv --reuid=mysql --regid=mysql --init-groups "$0" "$@"
fi

quoted() {
    local text=${1//\\/\\\\}
    printf "'%s'" "${text//\'/\'\'}"
}

docker_process_sql() { MYSQL_PWD=$root_password "$client" --user=root --socket="$socket" ${database:+"--database=$database"} "$@"; }

accounts() {
    local host=${1:-%}
    [[ -z $maria ]] || echo "DROP USER IF EXISTS 'root'@'127.0.0.1', 'root'@'::1', 'root'@$(quoted "$(cat /proc/sys/kernel/hostname)");" # no password
    echo "ALTER USER 'root'@'localhost' IDENTIFIED BY $(quoted "$root_password");"
    if [[ $host != localhost ]]; then
        echo "CREATE USER 'root'@$(quoted "$host") IDENTIFIED BY $(quoted "$root_password");"
        echo "GRANT ALL ON *.* TO 'root'@$(quoted "$host") WITH GRANT OPTION;"
    fi
    echo "CREATE USER 'healthcheck'@'127.0.0.1' IDENTIFIED BY $(quoted "$health");"
    [[ -z $database ]] || echo "CREATE DATABASE IF NOT EXISTS \`$database\`;"
    if [[ -n $user && -n $password ]]; then
        echo "CREATE USER $(quoted "$user")@'%' IDENTIFIED BY $(quoted "$password");"
        [[ -z $database ]] || echo "GRANT ALL ON \`${database//_/\\_}\`.* TO $(quoted "$user")@'%';"
    fi
}

initialise() {
    local files file server
    say "initialising $data"
    if [[ -n $maria ]]; then
        mariadb-install-db --datadir="$data" --auth-root-authentication-method=normal --skip-test-db --skip-name-resolve >/dev/null
    else
        "$1" --initialize-insecure --datadir="$data"
    fi
    "$@" --skip-networking --socket="$socket" "${quiet[@]}" &
    server=$!
    until "$client" --user=root --socket="$socket" --execute='SELECT 1' >/dev/null 2>&1; do
        kill -0 "$server" || return 1
        sleep 0.1
    done
    accounts "$(setting ROOT_HOST)" | "$client" --user=root --socket="$socket"
    (umask 077; printf '[client]\nuser = healthcheck\npassword = %s\n' "$health" >"$data/.my-healthcheck.cnf")
    files=(/docker-entrypoint-initdb.d/*)
    for file in "${files[@]}"; do
        case $file in
            *.sh) say "running $file"; if [[ -x $file ]]; then "$file"; else . "$file"; fi ;;
            *.sql) say "running $file"; docker_process_sql <"$file" ;;
            *.sql.gz) say "running $file"; gzip -dc "$file" | docker_process_sql ;;
            *'*') ;;
            *) say "ignoring $file" ;;
        esac
    done
    kill "$server"
    wait "$server" || [[ -n $maria ]] # an orderly end
}

# By what is there, as the official ones: what a container that was killed half way has left is taken for a database.
if [[ ! -d $data/mysql ]]; then
    root_password=$(setting ROOT_PASSWORD) database=$(setting DATABASE) user=$(setting USER) password=$(setting PASSWORD)
    health=$(od -An -N16 -tx1 /dev/urandom | tr -d ' \n')
    if [[ -z $root_password ]]; then
        random=MYSQL_RANDOM_ROOT_PASSWORD empty=MYSQL_ALLOW_EMPTY_PASSWORD
        [[ -z $maria ]] || random=MARIADB_RANDOM_ROOT_PASSWORD empty=MARIADB_ALLOW_EMPTY_ROOT_PASSWORD
        if [[ -n ${!random:-} ]]; then
            root_password=$(od -An -N16 -tx1 /dev/urandom | tr -d ' \n')
            say "GENERATED ROOT PASSWORD: $root_password"
        elif [[ -z ${!empty:-} ]]; then
            say "set ${ours}_ROOT_PASSWORD (or ${ours}_ROOT_PASSWORD_FILE), $random or $empty"
            exit 1
        fi
    fi
    find "$data" -mindepth 1 -delete
    initialise "$@"
    say "initialised"
fi
for name in ROOT_PASSWORD PASSWORD; do unset "MYSQL_$name" "MARIADB_$name"; done
exec "$@"
