#!/bin/bash
# As `healthcheck.sh --connect --innodb_initialized` of the official mariadb image: over TCP, so that the server that only initialises
# its folder, which listens on a socket alone, is not taken for the one that is to come.
client=$(command -v mariadb mysql | head -n 1)
[[ $(echo 'SELECT 1' | "$client" --defaults-extra-file=/var/lib/mysql/.my-healthcheck.cnf --host=127.0.0.1 --skip-column-names 2>/dev/null) == 1 ]]
