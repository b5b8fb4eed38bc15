#!/bin/sh
# Writes the password file by which the servers of the cluster log in to each other, as the user whose query they run.
# https://www.postgresql.org/docs/current/libpq-pgpass.html
set -eu
umask 077
cd /run/cluster

# The role that owns the tables logs in from server to server alone. Its password is made at the first start.
if [ ! -s owner_password ]; then
    head -c 32 /dev/urandom | base64 | tr -d '\n' >unfinished
    mv unfinished owner_password
fi

line() {
    printf '*:*:*:%s:%s\n' "$1" "$(sed 's/[\\:]/\\&/g' "$2")"
}
{
    for login in admin ds_user mle_user pipeline; do
        line "$login" "/run/company-data/${login}_password"
    done
    line pipeline_owner owner_password
    cat /run/more_logins
} >unfinished
mv unfinished pgpass
chown postgres pgpass owner_password
